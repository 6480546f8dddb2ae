"""The only place where optimizer state is edited."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


@torch.no_grad()
def clear_state(optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor]) -> None:
    """Give ``parameters`` the optimizer state of a parameter that was never stepped: moments and step count zero.

    Edits the state tensors in place, so the parameters stay in the optimizer and compiled or captured steps stay valid.

    Args:
        optimizer: Any optimizer whose per-parameter state is made of tensors that start at zero (Adam, RMSprop, SGD).
        parameters: Parameters of this optimizer; those without state yet are left alone.

    Raises:
        KeyError: When a parameter does not belong to the optimizer: an edit that would silently do nothing.
    """
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for parameter in parameters:
        if id(parameter) not in owned:
            raise KeyError(f"a parameter of shape {tuple(parameter.shape)} is not in this optimizer")
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                value.zero_()
            elif isinstance(value, (int, float)):
                optimizer.state[parameter][key] = type(value)(0)
