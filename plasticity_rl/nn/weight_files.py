"""Files of pretrained weights: read without running anything in them, copied into a network that they fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from plasticity_rl.errors import UserError
from plasticity_rl.files.places import expanded


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Return the state dict saved in ``path``.

    Raises:
        UserError: When there is no such file, or it holds no state dict.
    """
    path = expanded(Path(path), "weights_path")
    if not path.is_file():
        raise UserError(
            f"weights_path={str(path)!r} is no file; give a state dict, such as torchvision's resnet18-*.pth"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise UserError(f"cannot read the weights in {path} ({one_line(error)}); download the file again") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no state dict of tensors; save model.state_dict() of the network")
    return state


def load_weights(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy into ``network`` the entries of ``state`` with its names; further ones (later stages) are left aside.

    Args:
        network: What is to have the weights.
        state: State dict of the whole network.
        source: What the message calls it.

    Raises:
        UserError: When an entry is missing or has another shape.
    """
    for name, tensor in network.state_dict().items():
        if name not in state:
            raise UserError(f"{source} has no entry {name!r}; it must be the state dict of the same network")
        if state[name].shape != tensor.shape:
            raise UserError(
                f"{source} holds {name!r} of shape {tuple(state[name].shape)} where this network has "
                f"{tuple(tensor.shape)}; name the architecture that the file belongs to"
            )
    network.load_state_dict(dict(state), strict=False)


def one_line(error: Exception) -> str:
    """Return the first line of what an error says, or its name."""
    return (str(error) or type(error).__name__).splitlines()[0]
