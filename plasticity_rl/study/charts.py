"""The curves of a study as a page draws them: a group of charts for each task, and the return over all tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from plasticity_rl.results.charts import Chart, Group, Line, Mark, limits_of, marks_of
from plasticity_rl.results.plots import look
from plasticity_rl.study.endpoints import RETURN
from plasticity_rl.study.figures import curve_of, label_of
from plasticity_rl.study.report import Report, Section

if TYPE_CHECKING:
    from plasticity_rl.results.runs import Event
    from plasticity_rl.study.scores import Score


def groups_of(report: Report) -> list[Group]:
    """Return what the interactive curves of a report are drawn from: the panels of its static figure, with events."""
    return [
        Group(section.title, [chart for tag in tags if (chart := _chart(report, section, tag)).lines])
        for section, tags in report.panels
    ]


def _chart(report: Report, section: Section, tag: str) -> Chart:
    lines, marks = [], []
    for index, arm in enumerate(report.arms):
        ours = [score for score in report.scores if score.arm == arm and score.run.task in section.tasks]
        band = curve_of(ours, section.tasks, tag)
        if band is not None:
            style = look(index)
            lines.append(Line(arm, band, style["color"], style["linestyle"]))
            marks += _marks(ours, arm, style["color"]) if len(section.tasks) == 1 else []
    return Chart(label_of(tag), lines, marks, **({"digits": 1} if tag == RETURN else {}) | limits_of(tag, lines))


def _marks(scores: Sequence[Score], arm: str, colour: str) -> list[Mark]:
    """Return the events of an arm, one for each frame and text, with their seeds where not all of them had it."""
    seeds: dict[Event, list[int]] = {}
    for score in scores:
        for event in score.events:
            seeds.setdefault(event, []).append(score.run.seed)
    events = sorted(seeds, key=lambda event: (event.frame, event.name, event.text))
    return [
        Mark(mark.frame, f"{arm}, {_named(seeds[event], len(scores))}{mark.text}", arm, colour, mark.many)
        for event, mark in zip(events, marks_of(events, arm, colour), strict=True)
    ]


def _named(seeds: Sequence[int], number: int) -> str:
    return "" if len(seeds) == number else f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}: "
