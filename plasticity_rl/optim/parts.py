"""Optimizers made of others, so that a part of what one steps on can be stepped on by another.

From outside they are one: one list of parameter groups, one state by parameter, one entry of a checkpoint. So what
edits optimizer state (resets, recycled units) and what reads it need not know of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

Kind = TypeVar("Kind", bound=Optimizer)
Make = Callable[[Optimizer], Optimizer]
"""Makes the optimizer that replaces one; given the one replaced, made for just the parameters that are meant."""


class Parts(Optimizer):
    """An optimizer whose parameter groups others step on, each on its own ones.

    Groups and state are the same objects in it and in them.

    Args:
        parts: Optimizers that share no parameter and hold no state yet.
    """

    kept: tuple[str, ...] = ("parts",)
    """Attributes that a copy has too; torch's optimizers forget their own."""

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = tuple(parts)
        self._share()

    def _share(self) -> None:
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state
            if isinstance(part, Parts):
                part._share()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Let each part take a step.

        Args:
            closure: Computes loss and gradients anew, and is called once.
        """
        loss = evaluate(closure)
        for part in self.parts:
            part.step()
        return loss

    def __getstate__(self) -> dict[str, Any]:
        """Return what makes a copy, or a pickle."""
        return {**super().__getstate__(), **{name: vars(self)[name] for name in self.kept}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over state and groups, here and in the parts; torch comes here from ``load_state_dict`` too."""
        super().__setstate__(state)
        self._share()


def evaluate(closure: Callable[[], Any] | None) -> Any:
    """Return what a closure of ``Optimizer.step`` gives, or None where there is none."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def replaced(optimizer: Optimizer, choices: Sequence[tuple[Iterable[Tensor], Make]]) -> Optimizer:
    """Return an optimizer that steps on parts of the parameters in other ways, and on the rest as ``optimizer`` does.

    Args:
        optimizer: Without state yet. Where no choice has any of its parameters it is returned as it is.
        choices: Parameters, of this optimizer or not, each with what makes the optimizer of those that are; no
            parameter is in two of them.
    """
    held = [p for group in optimizer.param_groups for p in group["params"]]
    wanted = [({id(p) for p in parameters}, make) for parameters, make in choices]
    chosen = [(ids, make) for ids, make in wanted if any(id(p) in ids for p in held)]
    if not chosen:
        return optimizer
    taken = {i for ids, _ in chosen for i in ids}
    rest = {id(p) for p in held} - taken
    parts = [_limited(optimizer, rest)] if rest else []
    parts += [make(_limited(optimizer, ids)) for ids, make in chosen]
    return parts[0] if len(parts) == 1 else Parts(parts)


def _limited(optimizer: Optimizer, ids: set[int]) -> Optimizer:
    """Return an optimizer of the same class and options for those of its parameters that have these ids."""
    groups = []
    for group in optimizer.param_groups:
        own = [p for p in group["params"] if id(p) in ids]
        options = {name: value for name, value in group.items() if name not in ("params", "param_names")}
        groups += [{**options, "params": own}] if own else []
    same: Any = type(optimizer)
    limited: Optimizer = same(groups, **optimizer.defaults)
    return limited


def part_that_steps_on(optimizer: Optimizer, parameter: Tensor, kind: type[Kind]) -> Kind | None:
    """Return the optimizer of class ``kind`` that steps on a parameter: this one or one that it is made of, or None."""
    if not any(p is parameter for group in optimizer.param_groups for p in group["params"]):
        return None
    if isinstance(optimizer, kind):
        return optimizer
    found = (part_that_steps_on(part, parameter, kind) for part in getattr(optimizer, "parts", ()))
    return next((part for part in found if part is not None), None)
