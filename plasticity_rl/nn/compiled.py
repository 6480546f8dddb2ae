"""``torch.compile`` for the networks of an update, and the plain networks wherever compiled ones would be wrong."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from plasticity_rl.errors import UserError, suggestion

HOOKED_CALLS_BEFORE_WARNING = 100
Run = Callable[..., Any]
"""Calls a network: ``run(module, *inputs)``."""


def plain(module: nn.Module, *inputs: Any) -> Any:
    """Return ``module(*inputs)``."""
    return module(*inputs)


def has_hooks(module: nn.Module) -> bool:
    """Return whether a forward hook, which a function compiled before it came would leave out, watches ``module``."""
    return any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in module.modules())


class Compiled:
    """Calls networks compiled, each once for every way in which it is used.

    Not while hooks watch them (a measurement, or a callback that looks at every batch): such an update rounds as an
    uncompiled one, so that a probe which watches updates (``FractionActiveUnits``) changes the run by rounding. When
    the compiler fails, the run goes on without it, with one warning. Weights may change in place at any time; modules
    must stay the same.

    Args:
        backend: Of ``torch.compile``, e.g. ``inductor``.

    Raises:
        UserError: When torch has no such backend.
    """

    def __init__(self, backend: str) -> None:
        backends = torch.compiler.list_backends()
        if backend not in torch.compiler.list_backends(exclude_tags=()):  # those for debugging as well
            raise UserError(f"model.compile={backend!r} must be one of {backends}.{suggestion(backend, backends)}")
        self.backend = backend
        self._compiled: dict[nn.Module, Callable[..., Any]] = {}
        self._hooked_calls: dict[nn.Module, int] = {}
        self._failed = False

    def __call__(self, module: nn.Module, *inputs: Any) -> Any:
        """Return ``module(*inputs)``."""
        if self._failed:
            return module(*inputs)
        if has_hooks(module):
            self._count_hooked(module)
            return module(*inputs)
        self._hooked_calls.pop(module, None)
        if module not in self._compiled:
            self._compiled[module] = torch.compile(module.forward, backend=self.backend)
        try:
            return self._compiled[module](*inputs)
        except Exception as error:  # of the compiler, of any kind; the network's own comes again from the plain call
            outputs = module(*inputs)
            self._failed = True
            reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else ""
            warnings.warn(
                f"model.compile={self.backend} does not work here ({type(error).__name__}: {reason}): the run goes on "
                "uncompiled",
                stacklevel=2,
            )
            return outputs

    def _count_hooked(self, module: nn.Module) -> None:
        count = self._hooked_calls[module] = self._hooked_calls.get(module, 0) + 1
        if count == HOOKED_CALLS_BEFORE_WARNING:
            warnings.warn(
                f"model.compile={self.backend}: a callback watches the {type(module).__name__} at every update, so it "
                "runs uncompiled",
                stacklevel=2,
            )
