"""The curves of a study as a chart (``results/panels.py``): panels for each task, and the return over all tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from plasticity_rl.results.arms import Band, aggregate
from plasticity_rl.results.panels import Chart, Entry, Events, Line, Panel, look, named_seeds
from plasticity_rl.results.quantities import quantity
from plasticity_rl.results.runs import Event
from plasticity_rl.results.statistics import FEW_SEEDS, interval, iqm_of
from plasticity_rl.study.endpoints import RETURN
from plasticity_rl.study.human_scores import RETURN_TAG, UNIT
from plasticity_rl.study.report import Report, Section
from plasticity_rl.study.scores import Score

POINTS = 50
"""Points of a line over several tasks."""
MOST_TOGETHER = 4
"""More arms than these would cover each other with their bands or seeds."""
CAPTION = (
    "Return, fraction of active units (FAU) of every module, and further curves of the study, against env frames: "
    f"interquartile mean over seeds; from {FEW_SEEDS} seeds on with the band of its 95 % intervals, below that with a "
    "thin line for every seed."
)


def chart_of(report: Report, tags: Sequence[str] | None = None) -> Chart:
    """Return what there is to draw of the curves of a report: a panel for each task and tag.

    Args:
        report: The report.
        tags: Of each single task; by default all that the report has.
    """
    tags = report.tags if tags is None else tags
    arms = [Entry(arm, look(index)) for index, arm in enumerate(report.arms)]
    panels: list[Panel] = []
    events: list[Events] = []
    for section in report.sections:
        single = len(section.tasks) == 1
        own = _events(report, section.title, len(events)) if single else []
        events += own
        panels += [_panel(report, section, tag, own) for tag in (tags if single else [RETURN])]
    baseline = report.arms.index(report.baseline) if report.baseline in report.arms else None
    return Chart(report.study.name, arms, panels, events, len(arms) > MOST_TOGETHER, CAPTION, [], baseline)


def _panel(report: Report, section: Section, tag: str, events: list[Events]) -> Panel:
    lines = []
    for index, arm in enumerate(report.arms):
        ours = [score for score in report.scores if score.arm == arm and score.run.task in section.tasks]
        band = curve_of(ours, section.tasks, tag)
        if band is not None:
            taken = [score.run for score in ours if score.curve(tag) is not None]
            per_task = tuple(sum(run.task == task for run in taken) for task in section.tasks)
            seeds = tuple(run.seed for run in taken)
            lines.append(Line(arm, look(index), index, tag, band, seeds, per_task))
    known = quantity(tag)
    unit = UNIT if report.study.normalize and RETURN_TAG.fullmatch(tag) else known.unit
    return Panel(
        section.title, known.name, unit, lines, events, False, known.low, known.high, tag == RETURN, known.scale
    )


def _events(report: Report, task: str, number: int) -> list[Events]:
    """Return the events of a task's arms by intervention; of those that not all runs of an arm had, with their seeds.

    Args:
        report: The report.
        task: Name of the task.
        number: Of the last event before.
    """
    found: list[Events] = []
    for index, arm in enumerate(report.arms):
        scores = [score for score in report.scores if score.arm == arm and score.run.task == task]
        seeds: dict[Event, list[int]] = {}
        for score in scores:
            for event in dict.fromkeys(score.events):
                seeds.setdefault(event, []).append(score.run.seed)
        ordered = sorted(seeds, key=lambda event: (event.frame, event.name, event.text))
        for name in dict.fromkeys(event.name for event in ordered):
            own = [event for event in ordered if event.name == name]
            texts = tuple(f"{event.text or name}{_of_seeds(seeds[event], len(scores))}" for event in own)
            frames = tuple(event.frame for event in own)
            found.append(Events(number + len(found) + 1, index, task, name, frames, texts))
    return found


def _of_seeds(seeds: Sequence[int], number: int) -> str:
    return "" if len(seeds) == number else f" ({named_seeds(seeds)})"


def curve_of(scores: Sequence[Score], tasks: Sequence[str], tag: str) -> Band | None:
    """Return one curve of the runs of an arm; over several tasks every task weighs the same.

    Runs whose curve is missing or not finite are left out. Returns None when a task has no run.
    """
    found = [[(s.curve(tag)) for s in scores if s.run.task == task] for task in tasks]
    curves = [[curve for curve in several if curve is not None] for several in found]
    if not all(curves):
        return None
    if len(tasks) == 1:
        return aggregate(curves[0])
    every = [curve for several in curves for curve in several]
    first, last = max(curve.frames[0] for curve in every), min(curve.frames[-1] for curve in every)
    frames = np.linspace(first, last, POINTS)
    rows = [np.stack([np.interp(frames, curve.frames, curve.values) for curve in several]) for several in curves]
    by_point = [row.T for row in rows]
    fewest = min(len(row) for row in rows)
    # Runs of several tasks side by side say nothing: below five seeds there is the line alone.
    return Band(frames, iqm_of(by_point), *interval(iqm_of, by_point), fewest, np.empty((0, POINTS)))
