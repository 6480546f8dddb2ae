"""The "Custom Scalars" tab of TensorBoard: the charts that answer the question, made of the tags that a run writes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from plasticity_rl.callback.intervention import Intervention

Layout = dict[str, dict[str, list[str]]]
"""Category -> chart -> regular expressions of the tags in it, each matched against the whole tag."""

ONE = "[^/]+"
"""One segment of a tag."""
EVENTS = f"intervention/{ONE}"
"""The 0 / 1 curves of all interventions: in a chart of their own, for beside them other curves are flat lines."""
CATEGORIES = (
    "Plasticity",
    "Active units by layer",
    "Dormant units by layer",
    "Linear units, and units without gradient",
    "Ranks of the features",
    "Norms",
    "Learning dynamics",
    "Losses",
)
"""In the order in which TensorBoard shows them."""


@runtime_checkable
class HasCharts(Protocol):
    """A callback that says which charts show what it logs; most probes do, and one of your own can."""

    def charts(self) -> Layout:
        """Return its charts. Patterns of a chart that others have too are added to theirs."""
        ...


def layout(callbacks: Iterable[Any] = ()) -> Layout:
    """Return the charts of a run with these callbacks: none for what nobody measures.

    TensorBoard draws all curves of a run in one colour, so a chart is kept to a handful of them.
    """
    callbacks = list(callbacks)
    merged: Layout = {category: {} for category in CATEGORIES}
    measured = [callback.charts() for callback in callbacks if isinstance(callback, HasCharts)]
    for charts in [_to_look_at_first(), *measured, _of_every_run()]:
        for category, of_category in charts.items():
            for title, tags in of_category.items():
                known = merged.setdefault(category, {}).setdefault(title, [])
                known += [tag for tag in tags if tag not in known]
    if any(isinstance(callback, Intervention) and callback.family == "regularizer" for callback in callbacks):
        merged["Losses"]["Terms that interventions add"] = [f"intervention/{ONE}/{ONE}/loss"]
    return {category: charts for category, charts in merged.items() if charts}


def by_module(modules: Sequence[str], category: str, tag: str) -> Layout:
    """Return a chart for each module, in whose tags ``{}`` stands for it.

    Heads of a module, as in ``critic.Q1`` and ``critic.Q2``, share its chart.
    """
    charts: dict[str, list[str]] = {}
    for module in modules:
        charts.setdefault(module.partition(".")[0], []).append(tag.format(re.escape(module)))
    return {category: charts}


def each(modules: Sequence[str], titles: Mapping[str, str]) -> dict[str, list[str]]:
    """Return a chart of every quantity for each module, since the curves of one chart would have one colour.

    Heads of a module, as in ``critic.Q1`` and ``critic.Q2``, share its chart.

    Args:
        modules: By dotted name.
        titles: Title of a quantity -> its tag, in which ``{}`` stands for the module.
    """
    charts: dict[str, list[str]] = {}
    for title, tag in titles.items():
        for module in modules:
            charts.setdefault(f"{title}: {module.partition('.')[0]}", []).append(tag.format(re.escape(module)))
    return charts


def _to_look_at_first() -> Layout:
    return {"Plasticity": {"Return": ["eval/return", "train/return"], "Events of interventions": [EVENTS]}}


def _of_every_run() -> Layout:
    return {
        "Plasticity": {"Replay ratio": ["schedule/replay_ratio"]},
        "Losses": {"Losses": [f"loss/{ONE}"], "Values of the critic": [f"q/{ONE}"]},
    }


def summary(charts: Layout) -> dict[str, dict[str, list[str | list[str]]]]:
    """Return ``charts`` as ``SummaryWriter.add_custom_scalars`` takes them.

    TensorBoard matches a pattern from the start of a tag but not to its end, so each gets its end here.
    """
    return {
        category: {title: ["Multiline", [f"{tag}$" for tag in tags]] for title, tags in of_category.items()}
        for category, of_category in charts.items()
    }
