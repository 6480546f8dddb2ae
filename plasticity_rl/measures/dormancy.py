"""Measures per hidden unit, one channel of a convolution being one unit: dormancy, gradients, rates of activity."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

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


def mean_of_units(output: Tensor, activation: nn.Module) -> Tensor:
    """Return the mean absolute output ``(n,)`` of every unit of a layer: what probes measure and interventions act on.

    The mean is over the batch, over space in convolutions, and over the outputs of a unit where it has several: one of
    a CReLU may be zero on every input while the unit is at work.

    Args:
        output: Output of the activation, or a gradient with respect to it, ``(B, copies * n, ...)``.
        activation: The layer.
    """
    copies = getattr(activation, "copies", 1)
    return output.abs().transpose(0, 1).flatten(1).mean(1).view(copies, -1).mean(0)


def rates_of_units(rates: Tensor, activation: nn.Module) -> Tensor:
    """Return the rate ``(n,)`` of every unit of a layer: of its output that is above zero most often, if several.

    So a unit is above zero on some input if one of its outputs is, and on every input if one of them always is. A unit
    behind a CReLU that is always above, or always below zero is linear, and a rate over both outputs would never say.

    Args:
        rates: Of the outputs of the activation, ``(copies * n,)``, see :func:`unit_rates`.
        activation: The layer.
    """
    return rates.view(getattr(activation, "copies", 1), -1).amax(0)


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
    return share_above([unit_rates(_by_unit(activation).T) for activation in activations], threshold)


def any_input_rate(activations: Iterable[Tensor]) -> Tensor:
    """Fraction of units that are above zero on at least one input: behind a ReLU, 1 minus the 0-dormant fraction.

    Near 1 at initialisation, where the fraction of active units by element is near 0.5.

    Args:
        activations: Outputs of a module's hidden activation layers, each as in :func:`dormancy_scores`.

    Returns:
        float32 scalar in [0, 1].
    """
    return mean_rate(activations, threshold=0.0)


def unit_rates(activation: Tensor) -> Tensor:
    """Share of inputs, and of positions in convolutions, on which each unit is above zero.

    Does not wait for a GPU, hence does not refuse NaN: it is not above zero. Every output counts as a unit; where a
    unit has several (CReLU), :func:`plasticity_rl.measures.dormancy.rates_of_units` joins their rates.

    Args:
        activation: Outputs of one activation layer, ``(batch, units)`` or ``(batch, channels, height, width)``.

    Returns:
        float32 ``[units]``, in [0, 1]; exactly 0 and 1 where the unit is never and always above zero.
    """
    active = (activation.detach() > 0).transpose(0, 1).flatten(1)
    return torch.count_nonzero(active, dim=1) / active.shape[1]


def share_above(rates: Iterable[Tensor], threshold: float) -> Tensor:
    """Fraction of units whose rate is above ``threshold``, the units of all layers pooled.

    Args:
        rates: ``[units]`` of every layer, as :func:`unit_rates` returns them, at least one layer.
        threshold: In [0, 1).

    Returns:
        float32 scalar in [0, 1].
    """
    return (torch.cat(list(rates)) > threshold).float().mean()


def linearized_rate(activations: Iterable[Tensor]) -> Tensor:
    """Fraction of units that are above zero on every input (and position): behind a ReLU they act as linear ones.

    Args:
        activations: Outputs of a module's hidden activation layers, each as in :func:`dormancy_scores`.

    Returns:
        float32 scalar in [0, 1].

    Source:
        Lyle et al. 2024 (arXiv 2402.18762), linearised ("zombie") units.
    """
    return torch.cat([linearized_mask(activation) for activation in activations]).float().mean()


def linearized_mask(output: Tensor, activation: nn.Module | None = None) -> Tensor:
    """Which units are above zero on every input (and position), by one of their outputs where they have several.

    Args:
        output: As in :func:`dormancy_scores`; of a layer whose units have several outputs ``(batch, copies * n, ...)``.
        activation: The layer; None for one output a unit.

    Returns:
        Bool ``[units]``.
    """
    rates = unit_rates(_by_unit(output).T)
    return (rates if activation is None else rates_of_units(rates, activation)) == 1


def gradient_dormancy_scores(gradient: Tensor) -> Tensor:
    """Score of every unit by the gradient at its output, ``G_i = E|dL/dh_i| / mean_k E|dL/dh_k|``.

    The expectation is over the batch and, in convolutions, over space. A layer without any gradient has scores 0.
    The score does not depend on the scale of the loss.

    Args:
        gradient: Gradient of a loss with respect to the outputs of one activation layer, shapes as in
            :func:`dormancy_scores`, finite.

    Returns:
        float64 ``[units]``, >= 0.

    Raises:
        ValueError: When there is no unit dimension, nothing in it, or NaN or infinity.

    Source:
        Liu et al. 2025 (arXiv 2505.24061), GraMa.
    """
    mean = _by_unit(gradient, "gradients").double().abs().mean(1)
    layer = mean.mean()
    return mean / torch.where(layer > 0, layer, torch.ones_like(layer))


def _by_unit(activation: Tensor, what: str = "activations") -> Tensor:
    """Return ``[units, batch * space]``."""
    if activation.ndim < 2 or not activation.numel():
        raise ValueError(f"{what} must be (batch, units, ...) and not empty, got {tuple(activation.shape)}")
    refuse_not_finite(activation, what)
    return activation.detach().transpose(0, 1).flatten(1)
