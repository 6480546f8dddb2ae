"""Measures on the activations of hidden units."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from plasticity_rl.measures.checks import refuse_not_finite


def active_and_total(activation: Tensor) -> tuple[Tensor, int]:
    """Count the elements above zero. Does not wait for a GPU, hence does not refuse NaN: it is not above zero.

    Args:
        activation: Outputs of an activation layer, any shape.

    Returns:
        The number of elements > 0 (an int64 scalar tensor on the same device) and the number of elements.
    """
    return torch.count_nonzero(activation > 0), activation.numel()


def nan_unless_finite(value: Tensor, tensors: Iterable[Tensor]) -> Tensor:
    """Return ``value``, or NaN when one of ``tensors`` holds NaN or infinity. Does not wait for a GPU.

    Args:
        value: Of a floating type.
        tensors: At least one, any shapes, on the device of ``value``.
    """
    finite = torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all()
    return torch.where(finite, value, torch.full_like(value, math.nan))


def fraction_active_units(activations: Iterable[Tensor]) -> Tensor:
    """Fraction of active units of a module, by element: ``sum_layers #(h > 0) / sum_layers #h``.

    The definition behind the published curves: elements are pooled over the batch, over all hidden layers of the
    module and, in convolutions, over space, so wide and early layers weigh more. About 0.5 at initialisation.

    Args:
        activations: Outputs of the module's hidden activation layers on one batch, any shapes, finite.

    Returns:
        Scalar tensor in [0, 1].

    Raises:
        ValueError: When an activation is NaN or infinite.

    Source:
        Ma et al. 2024 (arXiv 2310.07418), section 3, as computed in the authors' released code.
    """
    layers = list(activations)
    for layer in layers:
        refuse_not_finite(layer, "activations")
    return pooled_fraction(map(active_and_total, layers))


def pooled_fraction(counts: Iterable[tuple[Tensor, int]]) -> Tensor:
    """Divide the sum of active counts by the sum of totals: layers weigh by their number of elements.

    Args:
        counts: Pairs as :func:`active_and_total` returns them, at least one.

    Returns:
        Scalar tensor in [0, 1].
    """
    active, total = zip(*counts, strict=True)
    return torch.stack(active).sum() / sum(total)
