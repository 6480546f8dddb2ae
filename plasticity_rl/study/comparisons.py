"""Comparisons of arms: differences of runs that share a seed, with interval, exact p value, and Holm's correction.

Arms of a study share seeds, and with them initial weights and evaluation episodes, so the runs of two arms with one
seed are a pair. A comparison is the mean over tasks of the mean difference of the pairs. Looked at first:
``scipy.stats.permutation_test`` does the flips; ``scipy.stats`` has no correction by Holm, and statsmodels, which has
one, is a heavy dependency for three lines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from plasticity_rl.results.statistics import FEW_SEEDS, Floats, Scores, mean_of
from plasticity_rl.study.power import seeds_needed
from plasticity_rl.study.statistics import Estimate, estimate

Values = Mapping[str, Mapping[int, float]]
"""Scores of an arm: task -> seed -> score."""
LEVEL = 0.05
ABOVE, BELOW = "above 0", "below 0"
MOST_EXACT = 14
"""Pairs up to which all sign flips are tried, 2 to their number; beyond, so many at random:"""
RANDOM_FLIPS = 9_999


@dataclass(frozen=True)
class Comparison:
    """A difference between arms, seed by seed.

    Attributes:
        name: What is compared.
        tasks: Tasks on which it is.
        without: Tasks on which it is not, for an arm has no run there that shares a seed with the others.
        pairs: Number of seeds that all its arms have, by task.
        correlation: Of the scores of the two arms over seeds, within tasks; NaN below three pairs a task.
        difference: Mean over tasks of the mean difference.
        p: Two-sided, by sign flips.
        p_holm: The same, corrected for all comparisons of its family.
        family: Number of comparisons in its family.
        smallest_p: The smallest corrected p that so many pairs, in this family, can give.
        spreads: Standard deviation of the differences of the pairs, by task; NaN of one pair.
    """

    name: str
    tasks: tuple[str, ...]
    without: tuple[str, ...]
    pairs: tuple[int, ...]
    correlation: float
    difference: Estimate
    p: float
    p_holm: float = math.nan
    family: int = 1
    smallest_p: float = 0.0
    spreads: tuple[float, ...] = ()

    @property
    def is_decided(self) -> bool:
        """Whether the corrected p says on which side of 0 the difference is."""
        return self.verdict in (ABOVE, BELOW)

    def seeds_to_decide(self, effect: float | None = None) -> int | None:
        """Return how many seeds on each task would find a difference with probability 0.8, by the spread of the pairs.

        The level is 0.05 over the number of comparisons, the smallest that Holm's correction can ask for.

        Args:
            effect: Size of the difference; None for the one that was observed.

        Returns:
            Their number; None when it is above 1000, or the pairs do not say.
        """
        size = self.difference.value if effect is None else effect
        needed = pairs_needed(self.family)
        return seeds_needed(size, self.spreads, LEVEL / self.family, fewest_pairs=needed) if self.spreads else None

    @property
    def verdict(self) -> str:
        """What the corrected p says; nothing where it could not say anything, or seeds are too few."""
        if min(self.pairs) < FEW_SEEDS:
            return f"none: fewer than {FEW_SEEDS} pairs on a task"
        if self.smallest_p > LEVEL:
            return f"none: p (Holm) cannot be below {self.smallest_p:.2g} here"
        if not self.p_holm <= LEVEL:  # not a number without a correction
            return "undecided"
        return ABOVE if self.difference.value > 0 else BELOW


def compare(name: str, plus: Sequence[Values], minus: Sequence[Values], tasks: Sequence[str]) -> Comparison | None:
    """Compare arms on the seeds that all of them have.

    Args:
        name: What is compared.
        plus: Arms whose scores are added: the new one, or two of an interaction.
        minus: As many arms whose scores are taken off.
        tasks: Names of the tasks; one without a common seed is left out.

    Returns:
        The comparison, or None when no task has a common seed.
    """
    seeds = {task: _common([*plus, *minus], task) for task in tasks}
    used = tuple(task for task in tasks if seeds[task])
    if not used:
        return None
    high, low = ([_total(arms, task, seeds[task]) for task in used] for arms in (plus, minus))
    differences = [one - other for one, other in zip(high, low, strict=True)]
    return Comparison(
        name=name,
        tasks=used,
        without=tuple(task for task in tasks if task not in used),
        pairs=tuple(len(one) for one in differences),
        correlation=correlation(low, high) if len(plus) == 1 else math.nan,
        difference=estimate(mean_of, differences),
        p=sign_flip_p(differences),
        spreads=tuple(float(one.std(ddof=1)) if len(one) > 1 else math.nan for one in differences),
    )


def _common(arms: Sequence[Values], task: str) -> list[int]:
    return [seed for seed in arms[0].get(task, {}) if all(seed in arm.get(task, {}) for arm in arms)]


def _total(arms: Sequence[Values], task: str, seeds: Sequence[int]) -> Floats:
    return np.sum([[arm[task][seed] for seed in seeds] for arm in arms], axis=0)


def correlation(old: Scores, new: Scores) -> float:
    """Return the correlation of pairs within tasks: of what is left when every task's mean is taken off."""
    if min(len(one) for one in old) < 3:
        return math.nan
    first, second = (np.concatenate([one - one.mean() for one in scores]) for scores in (old, new))
    size = math.sqrt(float((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / size if size else math.nan


def sign_flip_p(differences: Scores, *, random_flips: int = RANDOM_FLIPS) -> float:
    """Return the two-sided p value of no difference: how many sign flips give one as large (Fisher 1935).

    If an arm changes nothing, the two runs of a pair could as well have been the other way round. Every pair of every
    task is flipped by itself, and every task weighs the same. Up to 14 pairs all flips are tried, which is exact.

    Args:
        differences: One array ``(pairs,)`` for each task.
        random_flips: Number of random flips beyond; the p value counts the data as one more.
    """
    from scipy.stats import permutation_test  # takes a second to import, which `study run` need not wait for

    weighted = np.concatenate([np.asarray(one, dtype=np.float64) / len(one) for one in differences])
    if len(weighted) < 2:
        return 1.0
    flips = np.inf if len(weighted) <= MOST_EXACT else random_flips
    found = permutation_test(
        (weighted,),
        np.sum,
        permutation_type="samples",
        vectorized=True,
        n_resamples=flips,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def smallest_p(num_pairs: int) -> float:
    """Return the smallest two-sided p value of so many pairs: all differences on one side, 2 of 2 ** n flips."""
    return 1 / (RANDOM_FLIPS + 1) * 2 if num_pairs > MOST_EXACT else min(1.0, 2.0 ** (1 - num_pairs))


def pairs_needed(num_comparisons: int) -> int:
    """Return how many pairs a study needs, over all its tasks, for a verdict on so many comparisons."""
    return math.ceil(1 + math.log2(num_comparisons / LEVEL)) if num_comparisons else 0


def holm(p_values: Sequence[float], number: int = 0) -> list[float]:
    """Return p values corrected for being several (Holm 1979): the chance of any false claim stays below the level.

    The smallest of m is multiplied by m, the next by m - 1, and so on; none may be below one before it, or above 1.

    Args:
        p_values: Those that are known.
        number: How many there will be, if these are not all: m, as if the others were larger.
    """
    corrected = np.empty(len(p_values))
    order = np.argsort(p_values, kind="stable")
    factors = max(number, len(p_values)) - np.arange(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(factors * np.asarray(p_values)[order]), 1.0)
    return [float(p) for p in corrected]


def corrected(family: Sequence[Comparison], number: int = 0) -> list[Comparison]:
    """Return the comparisons of a family with their corrected p values.

    Args:
        family: Those that can be made by now.
        number: How many the study makes. A report on a part of the runs claims no more than one on all of them.
    """
    number = max(number, len(family))
    found = holm([one.p for one in family], number)
    least = holm([smallest_p(sum(one.pairs)) for one in family], number)
    return [
        replace(one, p_holm=p, family=number, smallest_p=floor)
        for one, p, floor in zip(family, found, least, strict=True)
    ]
