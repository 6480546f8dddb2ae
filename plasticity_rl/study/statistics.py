"""What a study says of an arm: aggregate scores over tasks and seeds, each with an interval.

Scores of an arm are a sequence of arrays, one for each task, each with one score per seed (Agarwal et al. 2021, arXiv
2108.13264). Every task weighs the same, however many of its seeds are finished. Tasks are not drawn anew: an interval
says what other seeds would change, not other tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri

from plasticity_rl.results.statistics import Floats, Scores, Statistic, interval, mean_of


@dataclass(frozen=True)
class Estimate:
    """A statistic with its interval.

    Attributes:
        value: Of the scores as they are.
        low: Lower end of the interval; NaN when there is none.
        high: Upper end; NaN when there is none.
    """

    value: float
    low: float
    high: float

    @property
    def has_interval(self) -> bool:
        """Whether the seeds give an interval."""
        return bool(np.isfinite(self.low) and np.isfinite(self.high))

    def __format__(self, spec: str) -> str:
        ends = f"{self.low:{spec}}, {self.high:{spec}}" if self.has_interval else "none"
        return f"{self.value:{spec}} [{ends}]"


def estimate(statistic: Statistic, scores: Scores, *, confidence: float = 0.95) -> Estimate:
    """Return a statistic of an arm's scores and its t interval.

    Args:
        statistic: Function of the scores, e.g. ``iqm_of`` or ``mean_of`` of :mod:`plasticity_rl.results.statistics`.
        scores: One array ``(seeds,)`` for each task.
        confidence: Share of the intervals that should hold the truth, in (0, 1); simulated in ``docs/statistics.md``.

    Raises:
        ValueError: When a task has no score, a score is not finite, or ``confidence`` is out of range.
    """
    _check(scores)
    low, high = interval(statistic, scores, confidence=confidence)
    return Estimate(float(statistic(scores)), float(low), float(high))


def _check(scores: Scores) -> None:
    if any(len(one) == 0 or not np.isfinite(one).all() for one in scores):
        raise ValueError("every arm needs at least one finite score on every task")


def median_of(scores: Scores) -> Any:
    """Return the median over tasks of the mean score; of a single task, the median over its seeds."""
    if len(scores) == 1:
        return np.median(scores[0], axis=-1)
    return np.median([np.mean(one, axis=-1) for one in scores], axis=0)


def missed(scores: Scores, target: float) -> list[Floats]:
    """Return by how much every run misses ``target``; more than it does not count. Their mean is the optimality gap."""
    return [target - np.minimum(one, target) for one in scores]


def share_above(scores: Scores, threshold: float) -> Any:
    """Return the share of runs that score above ``threshold``, as a mean over tasks."""
    return mean_of([np.asarray(one > threshold, dtype=np.float64) for one in scores])


def performance_profile(scores: Scores, thresholds: Floats) -> list[Estimate]:
    """Return the share of runs above each of ``thresholds``, as a mean over tasks, with its score interval."""
    _check(scores)
    fewest = min(len(one) for one in scores)
    shares = [float(share_above(scores, threshold)) for threshold in thresholds]
    return [score_interval(share, len(scores) * fewest) for share in shares]


def probability_of_improvement(old: Scores, new: Scores) -> Estimate:
    """Return how probable it is that a run of one arm beats a run of another on the same task, in [0, 1].

    The mean over tasks of the Mann-Whitney statistic over the number of pairs; equal scores count one half. Its
    variance on a task is at most p (1 - p) / n with n the smaller number of seeds (Birnbaum and Klose 1957), hence the
    interval of that many yes-or-no trials, which is never too narrow.

    Raises:
        ValueError: When a task has no score, or a score is not finite.
    """
    _check([*old, *new])
    share = float(np.mean([_beats(one, other) for one, other in zip(new, old, strict=True)]))
    return score_interval(share, len(old) * min(len(one) for one in (*old, *new)))


def _beats(new: Floats, old: Floats) -> Floats:
    difference = np.asarray(new)[:, None] - np.asarray(old)[None, :]
    return np.mean((difference > 0) + 0.5 * (difference == 0))


def score_interval(share: float, number: int, *, confidence: float = 0.95) -> Estimate:
    """Return the score interval of a share of ``number`` trials (Wilson 1927); it has a width at 0 and 1 too."""
    z = ndtri((1 + confidence) / 2)
    centre = (share + z**2 / (2 * number)) / (1 + z**2 / number)
    half = z / (1 + z**2 / number) * np.sqrt(share * (1 - share) / number + z**2 / (4 * number**2))
    return Estimate(share, max(float(centre - half), 0.0), min(float(centre + half), 1.0))
