"""Statistics over seeds: interquartile mean, and t intervals. Pure functions of NumPy arrays.

Few seeds and heavy tails are the rule (Agarwal et al. 2021, arXiv 2108.13264). The percentile bootstrap, which is usual
there, is far too narrow for three or five seeds; which intervals hold was simulated (``benchmarks/coverage.py``, table
in ``docs/statistics.md``). The libraries looked at first: ``rliable`` ignores its random state and breaks on a fresh
install; ``scipy.stats.trim_mean`` is equal to the IQM for a multiple of four runs, but cuts nothing at all from three;
``scipy.stats.bootstrap`` has percentile and BCa intervals only; the t intervals of ``scipy.stats`` (one sample, pairs)
are special cases of the one here, and the tests compare with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

Floats = NDArray[np.float64]
Scores = Sequence[Floats]
"""One array ``(..., seeds)`` for each task; tasks may have other numbers of seeds."""
Statistic = Callable[[Scores], Any]
"""Reduces the seeds of all tasks: ``(...)``."""
CHUNK = 20_000
"""Resampled values computed at a time: bounds the memory."""
FEW_SEEDS = 5
"""Below so many seeds on a task nothing is said in words, and no band is drawn."""


def iqm(values: ArrayLike, axis: int = 0, weights: ArrayLike | None = None) -> Floats:
    """Return the interquartile mean: the mean of the middle half of the values.

    Values that lie on the border of the middle half count in part, so that it is defined for any number of them: with
    n sorted values of mass 1/n each, the mass between 0.25 and 0.75 is averaged. One value is itself, two give their
    mean, three the weights 1/6, 2/3, 1/6.

    Args:
        values: At least one value along ``axis``; NaN gives NaN.
        axis: Axis that is reduced.
        weights: Mass of each value along ``axis``, above 0; equal ones unless given. Only their ratios count.

    Raises:
        ValueError: When there is no value.
    """
    found = np.moveaxis(np.asarray(values, dtype=np.float64), axis, -1)
    count = found.shape[-1]
    if count == 0:
        raise ValueError("iqm of no values")
    masses = np.full(count, 1 / count) if weights is None else np.asarray(weights, dtype=np.float64)
    order = np.argsort(found, axis=-1)
    upper = np.cumsum((masses / masses.sum())[order], axis=-1)
    lower = np.concatenate([np.zeros_like(upper[..., :1]), upper[..., :-1]], axis=-1)
    inside = np.clip(np.minimum(upper, 0.75) - np.maximum(lower, 0.25), 0.0, None)
    middle = (inside * np.take_along_axis(found, order, axis=-1)).sum(axis=-1) / inside.sum(axis=-1)
    # Sorted to the end, a NaN would be cut off and go unnoticed.
    return np.where(np.isnan(found).any(axis=-1), np.nan, middle)


def iqm_of(scores: Scores) -> Any:
    """Return the interquartile mean over all seeds and tasks; every task has the same mass, shared by its seeds.

    Equal to the IQM of Agarwal et al. 2021 where all tasks have as many seeds. They define it for that case alone; if
    every run had the same mass instead, an arm with more seeds on an easy task would be the better one.
    """
    masses = np.concatenate([np.full(one.shape[-1], 1 / one.shape[-1]) for one in scores])
    return iqm(np.concatenate(scores, axis=-1), axis=-1, weights=masses)


def mean_of(scores: Scores) -> Any:
    """Return the mean over tasks of the mean score."""
    return np.mean([np.mean(one, axis=-1) for one in scores], axis=0)


def interval(
    statistic: Statistic, scores: Scores, *, confidence: float = 0.95, num_resamples: int = 2000, seed: int = 0
) -> tuple[Floats, Floats]:
    """Return the ends of the t interval of a statistic.

    The squared errors of the tasks add up, since tasks are not drawn anew, and the degrees of freedom are those of
    Satterthwaite 1946. Of :func:`mean_of` the squared error of a task is the variance of its seeds over their number:
    for one task the interval is Student's, for differences of pairs the paired one. Of any other statistic it is the
    variance under a bootstrap of the task's seeds (Efron 1979) times n / (n - 1), by which that of a mean is too small.
    The IQM is no smooth function, for which the jackknife and the percentiles of so few seeds fail.

    Args:
        statistic: Reduces the seeds, e.g. :func:`iqm_of`.
        scores: ``(..., seeds)`` for each task.
        confidence: Share of the intervals that should hold the truth, in (0, 1).
        num_resamples: Number of resamples for each task.
        seed: Seed of the generator: equal input gives equal intervals.

    Returns:
        Lower and upper end, ``(...)`` each; NaN where there is no interval: a task has one seed, or no seed moves the
        statistic (equal scores say nothing of the next seed).

    Raises:
        ValueError: When ``confidence`` is out of range.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must be between 0 and 1")
    scores = [np.asarray(one, dtype=np.float64) for one in scores]
    value = np.asarray(statistic(scores), dtype=np.float64)
    if any(one.shape[-1] < 2 for one in scores):
        return np.full_like(value, np.nan), np.full_like(value, np.nan)
    generator = np.random.default_rng(seed)
    if statistic is mean_of:
        parts = np.stack([one.var(axis=-1, ddof=1) / one.shape[-1] / len(scores) ** 2 for one in scores])
    else:
        parts = np.stack([_part(statistic, scores, task, num_resamples, generator) for task in range(len(scores))])
    freedoms = np.array([one.shape[-1] - 1.0 for one in scores]).reshape(-1, *[1] * value.ndim)
    total = parts.sum(axis=0)
    # Rounding is no difference between seeds.
    total = np.where(np.sqrt(total) > 1e-12 * np.abs(value), total, np.nan)
    freedom = total**2 / (parts**2 / freedoms).sum(axis=0)
    half = stdtrit(freedom, (1 + confidence) / 2) * np.sqrt(total)
    return value - half, value + half


def _part(
    statistic: Statistic, scores: Scores, task: int, num_resamples: int, generator: np.random.Generator
) -> Floats:
    """Return the part of a statistic's variance that comes from the seeds of one task, ``(...)``."""
    one = scores[task]
    count = one.shape[-1]
    draws = generator.integers(count, size=(num_resamples, count))
    values = []
    for some in np.array_split(draws, max(1, num_resamples * one.size // count // CHUNK)):
        # (..., seeds) -> (resamples, ..., seeds)
        again = np.moveaxis(one[..., some], -2, 0)
        fixed = [np.broadcast_to(other, (len(some), *other.shape)) for other in scores]
        values.append(statistic([*fixed[:task], again, *fixed[task + 1 :]]))
    return np.concatenate(values).var(axis=0) * count / (count - 1)
