"""Write the table of newer methods on ``docs/choosing.md``: ``make evidence``.

A row for each arm of ``configs/studies/mini/newer_methods.yaml``: its callbacks, the tests of their formulas, what they
add to an update at full size, and what came out in the runs that are kept in ``docs/evidence``. Nothing is trained.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import evidence
import yaml
from costs import costs_in_words
from tables import link, table

import callbacks
from plasticity_rl.study.report import Report

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "choosing.md"
KEPT = ROOT / "docs" / "evidence" / "mini" / "newer_methods.tar.xz"
PART = re.compile(r"(<!-- runs: newer methods -->\n).*?(<!-- end of runs -->)", re.DOTALL)
ADDED = re.compile(r"trainer\.callbacks\+=callbacks\.(\w+)")


def callbacks_of(items: Sequence[str]) -> list[str]:
    """Return the names of the callbacks that these files and options of an arm add, as written."""
    found = []
    for item in items:
        if match := ADDED.fullmatch(item):
            found.append(match[1])
        elif item.endswith(".yaml"):
            entries = yaml.safe_load((ROOT / item).read_text(encoding="utf-8"))["trainer"]["callbacks+"]
            found += [entry["class_path"].removeprefix("callbacks.") for entry in entries]
    return found


def tests_of(name: str) -> list[str]:
    """Return the files with the tests of a callback's formula, which are named like it."""
    module = getattr(callbacks, name).__module__.rpartition(".")[2]
    found = [f"tests/{folder}/test_{module}.py" for folder in ("interventions", "optim")]
    return [file for file in found if (ROOT / file).is_file()]


def head_of(report: Report) -> tuple[str, ...]:
    """Return the head of the table."""
    differences = (f"{endpoint.name}, minus `{report.baseline}`" for endpoint in report.families)
    return ("arm", "callbacks", "tests of the formula", "adds to an update", "seeds", *differences, "p", "verdict")


def rows_of(report: Report) -> Iterator[tuple[str, ...]]:
    """Yield a row for each arm beside the baseline."""
    endpoints = list(report.families)
    (levels,) = report.study.factors.values()
    for index, one in enumerate(report.families[report.study.primary]):
        names = callbacks_of(levels[one.name])
        yield (
            f"`{one.name}`",
            " + ".join(map(link, names)),
            ", ".join(f"`{file}`" for name in names for file in tests_of(name)),
            " and ".join(costs_in_words()[name] for name in names),
            " + ".join(map(str, one.pairs)),
            *(f"{report.families[endpoint][index].difference:+.{endpoint.digits}f}" for endpoint in endpoints),
            f"{one.p:.2g}",
            one.verdict,
        )


def page(text: str) -> str:
    """Return the page with its table made anew."""
    assert PART.search(text), "the comments of the generated part are gone"
    report = evidence.report_of(KEPT)
    return PART.sub(lambda match: match[1] + table(head_of(report), rows_of(report)) + match[2], text)


if __name__ == "__main__":
    os.chdir(ROOT)
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
