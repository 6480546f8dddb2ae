"""Measures per hidden unit, one channel of a convolution being one unit: dormancy, and two rates of activity."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from plasticity_rl.measures.checks import refuse_not_finite


def dormancy_scores(activation: Tensor) -> Tensor:
    """Score of every unit, ``s_i = E|h_i| / (mean_k E|h_k| + 1e-9)``; the mean score of a layer is 1.

    The expectation is over the batch and, in convolutions, over space. A layer that is all zero has scores 0.

    Args:
        activation: Outputs of one activation layer, ``(batch, units)`` or ``(batch, channels, height, width)``, not
            empty, finite.

    Returns:
        float32 ``[units]``, >= 0.

    Raises:
        ValueError: When there is no unit dimension, nothing in it, or NaN or infinity.

    Source:
        Sokar et al. 2023 (arXiv 2302.12902), Eq. 1; the 1e-9 is of the authors' code.
    """
    mean = _by_unit(activation).float().abs().mean(1)
    return mean / (mean.mean() + 1e-9)


def dormant_mask(activation: Tensor, tau: float) -> Tensor:
    """Which units are tau-dormant, ``s_i <= tau``. With tau = 0 those that are 0 on every input.

    Args:
        activation: As in :func:`dormancy_scores`.
        tau: Threshold, >= 0.

    Returns:
        Bool ``[units]``.

    Source:
        Sokar et al. 2023 (arXiv 2302.12902), Definition 3.1.
    """
    return dormancy_scores(activation) <= tau


def overlap_coefficient(one: Tensor, other: Tensor) -> Tensor:
    """Overlap of two sets, ``|A & B| / min(|A|, |B|)``, in [0, 1]; 0 when one of them is empty.

    Args:
        one: Bool, any shape.
        other: Bool, the same shape.

    Returns:
        float32 scalar.

    Raises:
        ValueError: When the shapes differ.

    Source:
        Sokar et al. 2023 (arXiv 2302.12902), section 3, dormant units now and before.
    """
    if one.shape != other.shape:
        raise ValueError(f"masks of different shapes: {tuple(one.shape)} and {tuple(other.shape)}")
    smaller = torch.minimum(one.sum(), other.sum())
    return (one & other).sum() / smaller.clamp(min=1)


def mean_rate(activations: Iterable[Tensor], threshold: float) -> Tensor:
    """Fraction of units that are above zero on more than ``threshold`` of their inputs (and positions).

    Units of all layers are pooled with equal weight, unlike the elements of ``fraction_active_units``.

    Args:
        activations: Outputs of a module's hidden activation layers, each as in :func:`dormancy_scores`.
        threshold: Share of inputs, in [0, 1).

    Returns:
        float32 scalar in [0, 1].
    """
    rates = torch.cat([(_by_unit(activation) > 0).float().mean(1) for activation in activations])
    return (rates > threshold).float().mean()


def any_input_rate(activations: Iterable[Tensor]) -> Tensor:
    """Fraction of units that are above zero on at least one input: behind a ReLU, 1 minus the 0-dormant fraction.

    Near 1 at initialisation, where the fraction of active units by element is near 0.5.

    Args:
        activations: Outputs of a module's hidden activation layers, each as in :func:`dormancy_scores`.

    Returns:
        float32 scalar in [0, 1].
    """
    return mean_rate(activations, threshold=0.0)


def _by_unit(activation: Tensor) -> Tensor:
    """Return ``[units, batch * space]``."""
    if activation.ndim < 2 or not activation.numel():
        raise ValueError(f"activations must be (batch, units, ...) and not empty, got {tuple(activation.shape)}")
    refuse_not_finite(activation, "activations")
    return activation.detach().transpose(0, 1).flatten(1)
