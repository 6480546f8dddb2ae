"""How many seeds a comparison needs: the size of a study from the spread of its pairs, or of those of a pilot.

Power of the paired t test by the noncentral t distribution (Cohen 1988, chapter 2). Reports test by sign flips, whose
power is close to it from two pairs on above the smallest number that allows a verdict. At that number all differences
must lie on one side, which is a rarer thing than the t test asks for, and counted. Looked at first: ``TTestPower`` of
statsmodels, a heavy dependency that knows one task only.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from scipy.special import nctdtr, ndtr, stdtrit

from plasticity_rl.results.statistics import FEW_SEEDS

POWER = 0.8
"""Probability to find a difference that is there."""
MOST_SEEDS = 1000
"""On a task; a study that needs more is another study."""
CERTAIN = 10.0
"""Standard errors beyond the critical value at which the difference is found in every study, to machine precision."""


def power_of_pairs(effect: float, spreads: Sequence[float], num_pairs: int, level: float) -> float:
    """Return the probability that a two-sided paired t test finds a difference, on its side of 0.

    The statistic is the mean over tasks of the mean difference of the pairs, with degrees of freedom by Satterthwaite
    1946, as in reports.

    Args:
        effect: The true difference, above 0.
        spreads: Standard deviation of the differences of pairs on each task, not all 0.
        num_pairs: Pairs on each task, at least 2.
        level: Of the test, in (0, 1).
    """
    variances = np.square(np.asarray(spreads, dtype=np.float64))
    error = math.sqrt(variances.sum() / num_pairs) / len(variances)
    freedom = (num_pairs - 1) * variances.sum() ** 2 / (variances**2).sum()
    critical = float(stdtrit(freedom, 1 - level / 2))
    shift = effect / error
    return 1.0 if shift > critical + CERTAIN else float(1 - nctdtr(freedom, shift, critical))


def power_of_flips(effect: float, spreads: Sequence[float], num_pairs: int, level: float) -> float:
    """Return about the probability that a permutation test by sign flips finds a difference, on its side of 0.

    That of the t test, or, where only the most extreme of all flips reaches the level, the probability that all pairs
    lie on one side. Arguments are those of :func:`power_of_pairs`.
    """
    power = power_of_pairs(effect, spreads, num_pairs, level)
    if num_pairs * len(spreads) - 1 >= math.log2(2 / level):  # the two flips after these reach it too
        return power
    certain = [ndtr(effect / spread) if spread else 1.0 for spread in spreads]
    return min(power, float(np.prod(certain)) ** num_pairs)


def seeds_needed(
    effect: float, spreads: Sequence[float], level: float, *, fewest_pairs: int = 0, power: float = POWER
) -> int | None:
    """Return the smallest number of seeds on each task with which a difference is found with a probability.

    Args:
        effect: Size of the true difference, its sign does not matter.
        spreads: Standard deviation of the differences of pairs on each task.
        level: Of the test, in (0, 1).
        fewest_pairs: Pairs over all tasks without which there is no verdict.
        power: The probability, in (0, 1).

    Returns:
        At least five, below which nothing is said in words; None when it is more than 1000, or no number: no spread
        is known or all are 0, which says nothing of the next seed, or there is no effect.
    """
    if not effect or not np.isfinite([effect, *spreads]).all() or not any(spreads):
        return None
    least = max(FEW_SEEDS, -(-fewest_pairs // len(spreads)))
    numbers = range(least, MOST_SEEDS + 1)
    place = bisect_left(numbers, power, key=lambda number: power_of_flips(abs(effect), spreads, number, level))
    return numbers[place] if place < len(numbers) else None
