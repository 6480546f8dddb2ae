"""Random sparse masks of weights."""

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
