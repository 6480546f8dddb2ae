"""Change how many inputs a layer has, while the architecture is being built."""

from __future__ import annotations

import torch
from torch import nn

from plasticity_rl.units import Reader


def resize_inputs(reader: Reader, inputs: int) -> None:
    """Let ``reader.layer`` read ``inputs`` inputs where it read ``reader.inputs``; further ones stay.

    The weight is a new parameter, of zeros: initialise the layer afterwards. Only for the time before optimizers exist.

    Args:
        reader: Its layer is a Linear.
        inputs: New number of inputs from the units, >= 1.
    """
    layer = reader.layer
    assert isinstance(layer, nn.Linear), "only linear layers read a vector of features"
    layer.in_features += inputs - reader.inputs
    old = layer.weight
    new = torch.zeros(layer.out_features, layer.in_features, dtype=old.dtype, device=old.device)
    layer.weight = nn.Parameter(new, requires_grad=old.requires_grad)
