"""The only place where optimizer state is edited."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

StatePart = Literal["both", "moments", "step"]
"""The step count, everything else (moments, running squares, momentum), or both."""


@torch.no_grad()
def clear_state(optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor], what: StatePart = "both") -> None:
    """Give ``parameters`` the optimizer state of a parameter that was never stepped: moments and step count zero.

    Edits the state tensors in place, so the parameters stay in the optimizer and compiled or captured steps stay valid.

    Args:
        optimizer: Any optimizer whose per-parameter state is made of tensors that start at zero (Adam, RMSprop, SGD).
        parameters: Parameters of this optimizer; those without state yet are left alone.
        what: Part of the state that is cleared; the rest is left as it is.

    Raises:
        KeyError: When a parameter does not belong to the optimizer: an edit that would silently do nothing.
    """
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for parameter in parameters:
        if id(parameter) not in owned:
            raise KeyError(f"a parameter of shape {tuple(parameter.shape)} is not in this optimizer")
        for key, value in optimizer.state.get(parameter, {}).items():
            if what != "both" and (key == "step") != (what == "step"):
                continue
            if isinstance(value, Tensor):
                value.zero_()
            elif isinstance(value, (int, float)):
                optimizer.state[parameter][key] = type(value)(0)


@torch.no_grad()
def clear_elements(optimizer: torch.optim.Optimizer, parameter: Tensor, elements: Tensor) -> None:
    """Set the moments of single elements of ``parameter`` to zero; the step count is left as it is.

    A tensor has one step count for all of its elements. Set to zero, its bias correction would distort the steps of all
    the others; left as it is, the cleared elements of a long trained tensor start with steps of about 3 times Adam's
    learning rate (default betas) instead of once.

    Args:
        optimizer: Any optimizer whose per-element state is made of tensors of the parameter's shape.
        parameter: Parameter of this optimizer; left alone where it has no state yet.
        elements: Bool mask that broadcasts with ``parameter``.

    Raises:
        KeyError: When the parameter does not belong to the optimizer.
    """
    if not any(p is parameter for group in optimizer.param_groups for p in group["params"]):
        raise KeyError(f"a parameter of shape {tuple(parameter.shape)} is not in this optimizer")
    for value in optimizer.state.get(parameter, {}).values():
        if isinstance(value, Tensor) and value.dim() and value.shape == parameter.shape:
            value.masked_fill_(elements, 0.0)
