"""Sizes and changes of outputs, and returns."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from plasticity_rl.measures.checks import refuse_not_finite


def mean_absolute(values: Tensor) -> Tensor:
    """Mean of the absolute values, ``mean_i |x_i|``, >= 0.

    Args:
        values: Any shape, not empty, finite.

    Returns:
        Scalar of the dtype of ``values``.

    Raises:
        ValueError: When there are none, or NaN or infinity.
    """
    return _values(values).abs().mean()


def mean_absolute_difference(one: Tensor, other: Tensor) -> Tensor:
    """Mean of ``|x_i - y_i|``, >= 0: of outputs before and after an update, the churn.

    Args:
        one: Any shape, not empty, finite.
        other: The same shape: nothing is broadcast.

    Returns:
        Scalar.

    Raises:
        ValueError: When the shapes differ, there are no values, or NaN or infinity.

    Source:
        Tang et al. 2025 (arXiv 2506.00592), churn of policy and value on inputs outside the batch.
    """
    if one.shape != other.shape:
        raise ValueError(f"shapes differ: {tuple(one.shape)} and {tuple(other.shape)}")
    return mean_absolute(_values(one) - _values(other))


def spread(values: Tensor) -> Tensor:
    """Standard deviation, ``sqrt(mean_i (x_i - mean x)^2)``, >= 0. Arguments and errors as of :func:`mean_absolute`."""
    return _values(values).std(correction=0)


def discounted_return(rewards: Iterable[float], discount: float) -> float:
    """Sum of discounted rewards, ``sum_t gamma^t r_t``; 0 for none.

    Args:
        rewards: Rewards in the order of time.
        discount: gamma, in [0, 1].

    Raises:
        ValueError: When the discount is out of range.
    """
    if not 0 <= discount <= 1:
        raise ValueError(f"discount={discount} must be in [0, 1]")
    total, factor = 0.0, 1.0
    for reward in rewards:
        total += factor * reward
        factor *= discount
    return total


def _values(values: Tensor) -> Tensor:
    if not values.numel():
        raise ValueError("there are no values")
    refuse_not_finite(values, "values")
    return values.detach()
