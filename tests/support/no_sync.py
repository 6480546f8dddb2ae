"""Fails where Python would wait for a GPU: every operation that needs a value of a tensor, found on the CPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim")
"""Operators whose result, or its size, is read back: ``.item()``, ``float``, ``bool`` and ``if`` end in the first."""
COPIES = {getattr(torch.Tensor, name) for name in ("cpu", "numpy", "tolist", "item", "__array__")}
"""Methods that do nothing to a tensor on the CPU, and copy one from a GPU."""


class Waits(Exception):
    """A value of a tensor was read."""


def _refuse(what: str) -> None:
    raise Waits(f"{what} waits for a GPU")


class _Operators(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = args[1] if name in ("index", "index_put", "index_put_") else ()
        by_mask = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in masks)
        if (name in READS or by_mask) and not _in_optimizer():
            _refuse(name)
        return func(*args, **(kwargs or {}))


class _Methods(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (func in COPIES or (func is torch.Tensor.to and "cpu" in map(str, args))) and not _in_optimizer():
            _refuse(func.__name__)
        return func(*args, **(kwargs or {}))


def _in_optimizer() -> bool:
    """Whether torch.optim asks: its step counts lie on the CPU on every device."""
    frame = sys._getframe(1)
    while frame is not None:
        if "/torch/optim/" in frame.f_code.co_filename:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


@contextmanager
def no_waiting() -> Iterator[None]:
    """Raise Waits where a value of a tensor is read."""
    with _Operators(), _Methods():
        yield
