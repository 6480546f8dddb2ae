"""The numbers of a report as rows of text, for tables of any kind."""

from __future__ import annotations

import math
from collections.abc import Sequence

from plasticity_rl.study.comparisons import Comparison
from plasticity_rl.study.power import MOST_SEEDS
from plasticity_rl.study.report import Section

Rows = list[list[str]]
"""The head, and a line for each arm or comparison."""


def rows_of(section: Section) -> Rows:
    """Return the scores of the arms of a section."""
    head = ["arm", "seeds", *(column.name for column in section.columns)]
    lines = [
        [arm, _seeds(seeds), *(column.cell(arm, seeds) for column in section.columns)]
        for arm, seeds in section.seeds.items()
    ]
    return [head, *lines]


def _seeds(numbers: Sequence[int]) -> str:
    return " + ".join(map(str, numbers)) + " (unbalanced)" * (len(set(numbers)) > 1)


def differences_of(section: Section, baseline: str) -> Rows:
    """Return the differences of the other arms from the baseline in a section; nothing where there are none."""
    arms = dict.fromkeys(arm for column in section.differences for arm in column.values)
    head = [f"minus {baseline}", *(column.name for column in section.differences)]
    pairs = section.pairs
    lines = [[arm, *(column.cell(arm, pairs[arm]) for column in section.differences)] for arm in arms]
    return [head, *lines] if arms else []


def comparisons_of(family: Sequence[Comparison], digits: int, *, verdicts: bool, effect: float | None = None) -> Rows:
    """Return the comparisons on an endpoint with their p values.

    Args:
        family: The comparisons.
        digits: Behind the point of a difference.
        verdicts: Whether there are verdicts of the corrected p, and how many seeds would decide what is not.
        effect: Size of the difference that they would find; None for those that were observed.
    """
    head = ["comparison", "pairs", "correlation", "difference", "p", "p (Holm)"]
    head += ["verdict", "seeds to decide"] * verdicts
    lines = []
    for one in family:
        pairs = " + ".join(map(str, one.pairs)) + (f" (not on {', '.join(one.without)})" if one.without else "")
        together = "" if math.isnan(one.correlation) else f"{one.correlation:.2f}"
        numbers = [f"{one.difference:+.{digits}f}", f"{one.p:.2g}", f"{one.p_holm:.2g}"]
        said = [one.verdict, seeds_in_words(one, effect)] if verdicts else []
        lines.append([one.name, pairs, together, *numbers, *said])
    return [head, *lines]


def seeds_in_words(one: Comparison, effect: float | None) -> str:
    """Return how many seeds would decide a comparison; nothing where it is decided, or the pairs do not say."""
    if one.is_decided or not one.difference.has_interval:
        return ""
    number = one.seeds_to_decide(effect)
    return f"over {MOST_SEEDS:,}" if number is None else str(number)
