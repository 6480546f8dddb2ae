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


def cosine_growth(progress: float) -> float:
    """Return how much has grown at a rate that a cosine anneals, ``(1 + cos(pi p)) / 2``, as a part of all growth.

    The integral of the rate from 0 to ``progress`` over the whole one: ``p + sin(pi p) / pi``; steep at first, 1 at 1.

    Args:
        progress: Part of the time that is behind, in [0, 1].

    Source:
        The rate is that of the update schedule of Evci et al. 2020 (arXiv 1911.11134), and an option of the code of Liu
        et al. 2025 (arXiv 2410.07994).
    """
    return progress + math.sin(math.pi * progress) / math.pi


@torch.no_grad()
def exchanged_mask(
    mask: Tensor, *, size: Tensor, gradient: Tensor, candidates: Tensor, net: int, prune_at_most: int, allowed: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a sparse mask after some weights were pruned and more have grown, and which ones both were.

    Of the ``candidates`` the smallest are pruned; as many weights and ``net`` more grow, those with the largest
    gradient among all that were not in use before. Of equal ones those that come first stay, or grow.

    Args:
        mask: Bool; True is in use. The others below have its shape.
        size: Weights, of any sign.
        gradient: Gradient of the loss by every weight, those that are not in use included.
        candidates: Bool: weights in use that may be pruned.
        net: How many more weights are to be in use, >= 0; where too few are left to grow, all of them.
        prune_at_most: Number, >= 0.
        allowed: Bool: weights that may be in use.

    Returns:
        The new mask, the pruned and the grown weights; all bool.
    """
    free = allowed & ~mask
    candidates = candidates & mask
    # What nothing could grow for is not pruned: the number in use never falls.
    number = min(prune_at_most, max(int(free.sum()) - net, 0))
    pruned = candidates & ~largest_mask(size, max(int(candidates.sum()) - number, 0), candidates)
    grown = largest_mask(gradient, net + int(pruned.sum()), free)
    return (mask & ~pruned) | grown, pruned, grown


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
