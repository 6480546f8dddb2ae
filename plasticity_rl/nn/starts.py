"""Layers that start otherwise than the agent initialises a layer of their kind, as the architecture of a paper does."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn

from plasticity_rl.nn.hypersphere import unit_vectors
from plasticity_rl.nn.noisy import NoisyLinear

Start = Literal["he_normal", "orthogonal", "spherical"]
"""``he_normal``: normal with variance 2 / fan-in, cut off at two standard deviations and widened to have that variance
all the same, as in flax. ``orthogonal``: orthogonal times sqrt(2). ``spherical``: orthogonal, and every row, what one
output reads, divided by its norm. Biases are zero."""

STDDEV_OF_CUT_NORMAL = 0.87962566103423978
"""Standard deviation of a standard normal that is cut off at -2 and 2."""


def mark_start(layer: nn.Linear, start: Start) -> nn.Linear:
    """Let ``layer`` start this way whenever its weights are drawn anew; its present values stay."""
    layer.own_start = start  # type: ignore[assignment]
    return layer


def start_of(layer: nn.Module) -> Start | None:
    """Return how ``layer`` starts, or None for: as the agent initialises a layer of its kind."""
    return getattr(layer, "own_start", None)


@torch.no_grad()
def draw_start(layer: nn.Linear, start: Start, generator: torch.Generator | None) -> None:
    """Give a linear layer its first weights, in place; of a noisy one also the noise as at first.

    Args:
        layer: On the device of the generator.
        start: Which.
        generator: Source of the random numbers, or torch's default generator.
    """
    if start == "he_normal":
        stddev = math.sqrt(2.0 / layer.in_features) / STDDEV_OF_CUT_NORMAL
        nn.init.trunc_normal_(layer.weight, std=stddev, a=-2 * stddev, b=2 * stddev, generator=generator)
    elif start == "orthogonal":
        nn.init.orthogonal_(layer.weight, math.sqrt(2.0), generator=generator)
    else:
        nn.init.orthogonal_(layer.weight, generator=generator)
        layer.weight.copy_(unit_vectors(layer.weight))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    if isinstance(layer, NoisyLinear):
        layer.reset_sigma()
