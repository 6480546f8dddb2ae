"""Blocks that the networks of more than one agent are made of, and how their layers start."""

from __future__ import annotations

import torch
from torch import nn


def init_weights(layer: nn.Module, generator: torch.Generator | None = None) -> None:
    """Initialise one layer in place as DrQ-v2 does; layers without weights are left alone.

    Linear: orthogonal, gain 1, zero bias. Conv2d: orthogonal, gain sqrt(2), zero bias. LayerNorm: ones and zeros.

    Args:
        layer: Any module; only its own parameters are touched, never those of its children.
        generator: Source of the random numbers, or torch's default generator.
    """
    if isinstance(layer, nn.Linear):
        nn.init.orthogonal_(layer.weight, generator=generator)
    elif isinstance(layer, nn.Conv2d):
        nn.init.orthogonal_(layer.weight, nn.init.calculate_gain("relu"), generator=generator)
    elif isinstance(layer, nn.LayerNorm) and layer.elementwise_affine:
        nn.init.ones_(layer.weight)
    else:
        return
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def trunk(in_dim: int, feature_dim: int) -> nn.Sequential:
    """Return what narrows a representation to ``feature_dim`` numbers in [-1, 1]: linear, layer norm, tanh."""
    return nn.Sequential(nn.Linear(in_dim, feature_dim), nn.LayerNorm(feature_dim), nn.Tanh())


def mlp(in_dim: int, hidden_dim: int, out_dim: int) -> nn.Sequential:
    """Return two hidden ReLU layers and a linear output: layers 0, 2 and 4, as checkpoints name them."""
    return nn.Sequential(
        nn.Linear(in_dim, hidden_dim),
        nn.ReLU(),
        nn.Linear(hidden_dim, hidden_dim),
        nn.ReLU(),
        nn.Linear(hidden_dim, out_dim),
    )


def count_mlp_parameters(in_dim: int, hidden_dim: int, out_dim: int) -> int:
    """Return the number of parameters of three linear layers, of which ``hidden_dim`` lies between."""
    return (in_dim + 1) * hidden_dim + (hidden_dim + 1) * hidden_dim + (hidden_dim + 1) * out_dim
