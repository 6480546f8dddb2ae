"""Write the tables of methods on ``docs/choosing.md``: ``make evidence``.

A row for each arm of a study: its callbacks, the tests of their formulas, what they add to an update at full size, and
what came out in the runs that are kept in ``docs/evidence``. Sorted by nothing but the name. Nothing is trained.
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
from plasticity_rl.files.packing import ENDING
from plasticity_rl.study.report import Report
from plasticity_rl.study.statistics import Estimate

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "choosing.md"
PART = re.compile(r"(<!-- runs: (\S+) -->\n).*?(<!-- end of runs -->)", re.DOTALL)
OF_SEVERAL = tuple(
    f"tests/interventions/test_{what}.py"
    for what in ("other_architectures", "weight_architectures", "weight_regularizers")
)
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
    """Return the files with the tests of a callback's formula: the one named like it, or those it shares."""
    module = getattr(callbacks, name).__module__.rpartition(".")[2]
    own = [f"tests/{folder}/test_{module}.py" for folder in ("interventions", "optim")]
    found = [file for file in own if (ROOT / file).is_file()]
    return found or [file for file in OF_SEVERAL if re.search(rf"\b{name}\b", (ROOT / file).read_text("utf-8"))]


def head_of(report: Report) -> tuple[str, ...]:
    """Return the head of the table."""
    differences = (f"{endpoint.name}, minus `{report.baseline}`" for endpoint in report.families)
    return (
        "arm",
        "callbacks",
        "tests of the formula",
        "adds to an update",
        "seeds",
        *differences,
        "p",
        "p (Holm)",
        "verdict",
    )


def rows_of(report: Report) -> Iterator[tuple[str, ...]]:
    """Yield a row for each arm beside the baseline, by name."""
    endpoints = list(report.families)
    (levels,) = report.study.factors.values()
    primary = report.families[report.study.primary]
    found = {endpoint: {one.name: one.difference for one in family} for endpoint, family in report.families.items()}
    for one in sorted(primary, key=lambda one: one.name):
        names = list(dict.fromkeys(callbacks_of(levels[one.name])))
        yield (
            f"`{one.name}`",
            " + ".join(map(link, names)),
            ", ".join(f"`{file}`" for name in names for file in tests_of(name)),
            " and ".join(costs_in_words()[name] for name in names),
            " + ".join(map(str, one.pairs)),
            *(_difference(found[endpoint].get(one.name), report.digits(endpoint)) for endpoint in endpoints),
            f"{one.p:.2g}",
            f"{one.p_holm:.2g}",
            one.verdict,
        )


def _difference(value: Estimate | None, digits: int) -> str:
    """Return a difference in an endpoint, which an arm may lack."""
    return "" if value is None else f"{value:+.{digits}f}"


def kept_of(study: str) -> Path:
    """Return the file with the runs of a study: ``mini/newer_methods``."""
    return ROOT / "docs" / "evidence" / f"{study}{ENDING}"


def page(text: str) -> str:
    """Return the page with its tables made anew."""
    assert PART.search(text), "the comments of the generated parts are gone"
    return PART.sub(lambda match: match[1] + _table(evidence.report_of(kept_of(match[2]))) + match[3], text)


def _table(report: Report) -> str:
    return table(head_of(report), rows_of(report))


if __name__ == "__main__":
    os.chdir(ROOT)
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
