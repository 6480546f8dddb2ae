"""Keep weights within bounds."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def clipping_bound(layer: nn.Module, kappa: float) -> float:
    """Return ``kappa / sqrt(fan_in)`` of a linear or convolutional layer."""
    return kappa / layer.get_parameter("weight")[0].numel() ** 0.5


@torch.no_grad()
def clip_weights(layers: Iterable[nn.Module], kappa: float) -> Tensor:
    """Clamp weights and biases of ``layers`` to ``+-kappa / sqrt(fan_in)``, in place.

    Args:
        layers: Linear or convolutional layers, at least one; fan_in is the number of inputs of one output.
        kappa: Bound in units of that of PyTorch's own initialisation of a linear layer.

    Returns:
        Fraction of their elements that were outside, a scalar tensor in [0, 1].
    """
    outside, total = [], 0
    for layer in layers:
        bound = clipping_bound(layer, kappa)
        for parameter in layer.parameters(recurse=False):
            outside.append((parameter.abs() > bound).sum())
            total += parameter.numel()
            parameter.clamp_(-bound, bound)
    return torch.stack(outside).sum() / total
