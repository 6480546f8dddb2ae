"""Statistics over seeds: interquartile mean and percentile bootstrap. Pure functions of NumPy arrays.

Few seeds and heavy tails are the rule, so a mean with a standard error misleads (Agarwal et al. 2021, arXiv
2108.13264). The libraries looked at first: ``rliable`` ignores its random state and breaks on a fresh install;
``scipy.stats.trim_mean`` is equal for a multiple of four runs, but cuts nothing at all from three.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

CHUNK = 200
"""Resamples computed at a time: bounds the memory."""


def iqm(values: ArrayLike, axis: int = 0) -> Floats:
    """Return the interquartile mean: the mean of the middle half of the values.

    Values that lie on the border of the middle half count in part, so that it is defined for any number of them: with
    n sorted values of mass 1/n each, the mass between 0.25 and 0.75 is averaged. One value is itself, two give their
    mean, three the weights 1/6, 2/3, 1/6.

    Args:
        values: At least one value along ``axis``; NaN gives NaN.
        axis: Axis that is reduced.

    Raises:
        ValueError: When there is no value.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64), axis=axis)
    count = ordered.shape[axis]
    if count == 0:
        raise ValueError("iqm of no values")
    edges = np.arange(count + 1) / count
    weights = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0.0, None)
    return np.tensordot(weights / weights.sum(), np.moveaxis(_without_nan(ordered, axis), axis, 0), axes=1)


def _without_nan(ordered: Floats, axis: int) -> Floats:
    """Make a whole column NaN that holds one: sorted to the end, it would be cut off and go unnoticed."""
    return np.where(np.isnan(ordered).any(axis=axis, keepdims=True), np.nan, ordered)


def bootstrap_band(
    curves: ArrayLike,
    *,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> tuple[Floats, Floats]:
    """Return the percentile bootstrap interval of the IQM over runs, at every point of the curves.

    Whole runs are drawn with replacement, so a run keeps its curve. The band says how much the IQM would move with
    other seeds; below about five runs it is rough, and of a single run it has no width.

    Args:
        curves: ``(runs, points)``.
        confidence: Share of the resampled IQMs inside the band, in (0, 1).
        num_resamples: Number of resamples.
        seed: Seed of the generator, so that a figure can be drawn again.

    Returns:
        Lower and upper end, ``(points,)`` each.

    Raises:
        ValueError: When ``curves`` has another number of dimensions, no runs, or ``confidence`` is out of range.
    """
    values = np.asarray(curves, dtype=np.float64)
    if values.ndim != 2 or len(values) == 0:
        raise ValueError(f"bootstrap_band needs an array (runs, points) with at least one run, got {values.shape}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must be between 0 and 1")
    generator = np.random.default_rng(seed)
    draws = generator.integers(len(values), size=(num_resamples, len(values)))
    chunks = [iqm(values[draws[first : first + CHUNK]], axis=1) for first in range(0, num_resamples, CHUNK)]
    tail = 50 * (1 - confidence)
    low, high = np.percentile(np.concatenate(chunks), [tail, 100 - tail], axis=0)
    return low, high
