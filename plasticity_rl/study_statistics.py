"""What a study says: aggregate scores, comparisons of arms and their interaction, with stratified bootstrap intervals.

Scores of an arm are a sequence of arrays, one for each task, each with one score per seed (Agarwal et al. 2021, arXiv
2108.13264). A resample draws as many seeds with replacement within each arm and task: tasks are not resampled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from plasticity_rl.statistics import Floats, iqm

Scores = Sequence[Floats]
"""One array ``(..., seeds)`` for each task; in front of the seeds there may be resamples."""
Statistic = Callable[[Sequence[Scores]], Any]
"""Takes the scores of one or more arms, and reduces the seeds: ``(...)``."""


@dataclass(frozen=True)
class Estimate:
    """A statistic with its bootstrap interval.

    Attributes:
        value: Of the scores as they are.
        low: Lower end of the interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def estimate(
    statistic: Statistic,
    arms: Sequence[Scores],
    *,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Return a statistic of ``arms`` and its percentile interval under stratified resampling of the seeds.

    With one seed per arm and task the interval has no width: it says nothing about other seeds.

    Args:
        statistic: Function of the arms' scores, e.g. :func:`iqm_of` or :func:`interaction`.
        arms: Scores of each arm that the statistic needs, in its order.
        confidence: Share of the resampled values inside the interval, in (0, 1).
        num_resamples: Number of resamples.
        seed: Seed of the generator: equal input gives equal intervals.

    Raises:
        ValueError: When an arm has a task without a score, a score is NaN, or ``confidence`` is out of range.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must be between 0 and 1")
    if any(len(scores) == 0 or not np.isfinite(scores).all() for arm in arms for scores in arm):
        raise ValueError("every arm needs at least one finite score on every task")
    generator = np.random.default_rng(seed)
    resamples = [
        [scores[generator.integers(len(scores), size=(num_resamples, len(scores)))] for scores in map(np.asarray, arm)]
        for arm in arms
    ]
    values = statistic(resamples)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(values, [tail, 100 - tail])
    return Estimate(float(statistic(arms)), float(low), float(high))


def iqm_of(arms: Sequence[Scores]) -> Any:
    """Return the interquartile mean over all seeds and tasks of the first arm."""
    return iqm(np.concatenate(arms[0], axis=-1), axis=-1)


def mean_of(arms: Sequence[Scores]) -> Any:
    """Return the mean over tasks of the mean score of the first arm."""
    return np.mean(_task_means(arms[0]), axis=0)


def median_of(arms: Sequence[Scores]) -> Any:
    """Return the median over tasks of the mean score of the first arm; of a single task, the median over its seeds."""
    if len(arms[0]) == 1:
        return np.median(arms[0][0], axis=-1)
    return np.median(_task_means(arms[0]), axis=0)


def _task_means(scores: Scores) -> Floats:
    return np.stack([np.mean(one, axis=-1) for one in scores])


def optimality_gap(arms: Sequence[Scores], target: float) -> Any:
    """Return by how much the runs of the first arm miss ``target`` on average; more than it does not count."""
    return target - np.minimum(np.concatenate(arms[0], axis=-1), target).mean(axis=-1)


def iqm_difference(arms: Sequence[Scores]) -> Any:
    """Return the IQM of the second arm minus that of the first."""
    return iqm_of(arms[1:]) - iqm_of(arms)


def probability_of_improvement(arms: Sequence[Scores]) -> Any:
    """Return how probable it is that a run of the second arm beats one of the first on the same task, in [0, 1].

    The mean over tasks of the Mann-Whitney statistic over the number of pairs; equal scores count one half.
    """
    first, second = arms
    return np.mean([_beats(new, old) for old, new in zip(first, second, strict=True)], axis=0)


def _beats(new: Floats, old: Floats) -> Floats:
    difference = np.asarray(new)[..., :, None] - np.asarray(old)[..., None, :]
    return np.mean((difference > 0) + 0.5 * (difference == 0), axis=(-2, -1))


def interaction(arms: Sequence[Scores]) -> Any:
    """Return by how much the second factor's effect on the IQM changes with the first factor.

    Args:
        arms: Scores with the levels (0, 0), (0, 1), (1, 0), (1, 1) of the two factors: of augmentation (with, without)
            and reset (none, often), a value above 0 says that a reset helps more without augmentation.
    """
    base, other = iqm_difference(arms[:2]), iqm_difference(arms[2:])
    return other - base


def share_above(arms: Sequence[Scores], threshold: float) -> Any:
    """Return the share of runs of the first arm, over all tasks, that score above ``threshold``."""
    return (np.concatenate(arms[0], axis=-1) > threshold).mean(axis=-1)


def performance_profile(scores: Scores, thresholds: Floats) -> list[Estimate]:
    """Return the share of runs over all tasks that score above each of ``thresholds``, with its interval."""
    return [estimate(partial(share_above, threshold=threshold), [scores]) for threshold in thresholds]
