"""The numbers of a report as rows of text, for tables of any kind."""

from __future__ import annotations

import math
from collections.abc import Sequence

from plasticity_rl.study.comparisons import Comparison
from plasticity_rl.study.endpoints import Endpoint
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


def comparisons_of(family: Sequence[Comparison], endpoint: Endpoint, *, verdicts: bool) -> Rows:
    """Return the comparisons on an endpoint with their p values, and verdicts of the corrected ones."""
    head = ["comparison", "pairs", "correlation", "difference", "p", "p (Holm)", *(["verdict"] * verdicts)]
    lines = []
    for one in family:
        pairs = " + ".join(map(str, one.pairs)) + (f" (not on {', '.join(one.without)})" if one.without else "")
        together = "" if math.isnan(one.correlation) else f"{one.correlation:.2f}"
        numbers = [f"{one.difference:+.{endpoint.digits}f}", f"{one.p:.2g}", f"{one.p_holm:.2g}"]
        lines.append([one.name, pairs, together, *numbers, *([one.verdict] * verdicts)])
    return [head, *lines]
