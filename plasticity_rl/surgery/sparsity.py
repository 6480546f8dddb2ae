"""Sparse masks of weights: random ones, and those of the largest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def random_mask(shape: Sequence[int], density: float, generator: torch.Generator) -> Tensor:
    """Return a bool mask with exactly ``round(density * n)`` of its n elements True, at random places.

    Args:
        shape: Shape of the weight.
        density: Share that is kept, in [0, 1].
        generator: CPU generator.
    """
    size = math.prod(shape)
    mask = torch.zeros(size, dtype=torch.bool)
    mask[torch.randperm(size, generator=generator)[: round(density * size)]] = True
    return mask.view(*shape)


def erdos_renyi_densities(shapes: Mapping[str, Sequence[int]], density: float) -> dict[str, float]:
    """Return the density of every layer for ``density`` over all of them, proportional to ``sum(shape) / prod(shape)``.

    A layer whose share would exceed 1 is kept whole, and the others share the rest.

    Args:
        shapes: Weight shapes ``(out, in, ...)`` by layer.
        density: Share of all weights that is kept, in (0, 1].

    Source:
        Mocanu et al. 2018 (arXiv 1707.04780); with kernel sizes Evci et al. 2020 (arXiv 1911.11134).
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    whole: set[str] = set()
    while True:
        kept = density * sum(sizes.values()) - sum(sizes[name] for name in whole)
        rest = [name for name in shapes if name not in whole]
        scale = kept / sum(sum(shapes[name]) for name in rest) if rest else 0.0
        densities = {name: 1.0 if name in whole else scale * sum(shapes[name]) / sizes[name] for name in shapes}
        full = {name for name in rest if densities[name] > 1}
        if not full:
            return densities
        whole |= full


def polynomial_sparsity(progress: float, final: float, power: int = 3) -> float:
    """Return the sparsity at a point of a ramp from 0, ``final * (1 - (1 - progress)^power)``: steep at first.

    Args:
        progress: Part of the ramp that is behind, in [0, 1].
        final: Sparsity at its end, in [0, 1).
        power: Exponent.

    Source:
        Zhu & Gupta 2017 (arXiv 1710.01878), Eq. 1, with an initial sparsity of 0.
    """
    return final * (1.0 - (1.0 - progress) ** power)


@torch.no_grad()
def largest_mask(weight: Tensor, kept: int, allowed: Tensor) -> Tensor:
    """Return a bool mask of the ``kept`` elements of ``weight`` with the largest absolute values.

    Of equal ones those that come first are kept, on every device.

    Args:
        weight: Any shape.
        kept: Number of elements, >= 0.
        allowed: Bool, of the same shape: elements that may be kept; where there are fewer than ``kept``, all of them.
    """
    size = torch.where(allowed, weight.abs(), -1.0).flatten()
    mask = torch.zeros_like(size, dtype=torch.bool)
    mask[size.argsort(descending=True, stable=True)[:kept]] = True
    return mask.view(weight.shape) & allowed
