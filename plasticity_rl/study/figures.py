"""Figures of a study: curves of all arms, aggregate scores with their intervals, and performance profiles."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from plasticity_rl.results.legends import legend, line_handle, stack
from plasticity_rl.results.panels import look
from plasticity_rl.results.plots import STYLE, draw, draw_line, frames_axis, style
from plasticity_rl.results.statistics import FEW_SEEDS, Floats
from plasticity_rl.study.panels import CAPTION, MOST_TOGETHER, chart_of
from plasticity_rl.study.panels import curve_of as curve_of
from plasticity_rl.study.report import Report, Section, title_of
from plasticity_rl.study.scores import table_of
from plasticity_rl.study.statistics import Estimate, performance_profile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = 5
"""Panels beside each other at most."""
POINTS = 50
"""Thresholds of a profile."""
RETURN_COLUMNS = ("IQM", "median", "mean", "superhuman games", "optimality gap", "area under curve", "P(better)")
DIFFERENCE = "difference"
LETTERS_OF_A_TITLE = 30
"""Of a panel, in one line."""
BAND: dict[str, Any] = {"alpha": 0.18, "linewidth": 0}


def figures(report: Report) -> dict[str, tuple[Figure, str]]:
    """Return name -> figure and what it shows."""
    with mpl.rc_context(STYLE):
        return {
            "curves": (
                draw_curves(report),
                CAPTION,
            ),
            "scores": (
                draw_scores(report),
                "Aggregates of the final return, area under the curve, the probability that a run beats one of the "
                "baseline, and the difference from the baseline in the primary endpoint over pairs of runs with the "
                "same seed, with 95 % intervals where there are any.",
            ),
            "profiles": (
                draw_profiles(report),
                "Performance profiles: share of runs whose final return is above a threshold; from "
                f"{FEW_SEEDS} seeds on, and of at most {MOST_TOGETHER} arms, with 95 % bands (score intervals).",
            ),
        }


def draw_curves(report: Report, tags: Sequence[str] | None = None) -> Figure:
    """Draw a block of panels for each task, and the return over all tasks where there are several.

    Many arms are apart, as in a plot of theirs.

    Args:
        report: The report.
        tags: Of each single task; by default all that the report has.
    """
    chart = chart_of(report, tags)
    if chart.apart:
        bare = [replace(panel, events=[]) for panel in chart.panels]
        return draw(replace(chart, title="", panels=bare, events=[], caption=""))
    panels = chart.panels
    blocks = [[panel for panel in panels if panel.task == section.title] for section in report.sections]
    figure, grid = _grid(report, [len(block) for block in blocks])
    for block, axes in zip(blocks, grid, strict=True):
        for axis, panel in zip(axes, block, strict=True):
            for line in panel.lines:
                draw_line(axis, line.band, line.look)
            frames_axis(axis)
            axis.set_xlabel("env frames")
            axis.set_ylabel(panel.unit)
            axis.set_title(textwrap.fill(f"{panel.task}: {panel.title}", LETTERS_OF_A_TITLE), fontsize=8.5)
            if panel.from_zero and axis.dataLim.y0 >= 0:
                axis.set_ylim(bottom=0)
    return _with_legend(figure, report)


def _ends(points: Sequence[Estimate]) -> tuple[Floats, Floats, Floats]:
    return (
        np.array([point.value for point in points]),
        np.array([point.low for point in points]),
        np.array([point.high for point in points]),
    )


def draw_scores(report: Report) -> Figure:
    """Draw a row for each section: a panel for each aggregate, a point with its interval for each arm."""
    tables = [_panels(report, section) for section in report.sections]
    names = [name for name in (*RETURN_COLUMNS, DIFFERENCE) if any(name in table for table in tables)]
    names = names or ["IQM"]  # no run has a return: empty panels
    rows, arms = len(report.sections), report.arms
    size = (1.4 + 1.9 * len(names), 0.7 + rows * (0.45 + 0.22 * len(arms)))
    figure = Figure(figsize=size, layout="constrained")
    grid: Any = figure.subplots(rows, len(names), sharey=True, squeeze=False)
    for section, table, axes in zip(report.sections, tables, grid, strict=True):
        for axis, name in zip(axes, names, strict=True):
            values = table.get(name, {})
            for index, arm in enumerate(arms):
                if arm in values:
                    one, colour = values[arm], look(index).colour
                    if one.has_interval:
                        thick: Any = {"linewidth": 5, "solid_capstyle": "butt"}  # other caps go on beyond the ends
                        axis.plot([one.low, one.high], [index, index], color=colour, alpha=0.35, **thick)
                    axis.plot(one.value, index, marker="o", markersize=4, color=colour)
            axis.set_title(f"{title_of(report.study.primary)}\n- baseline" if name == DIFFERENCE else name, fontsize=9)
            axis.grid(axis="x", color="0.9")
            axis.grid(visible=False, axis="y")
            if name == "P(better)":
                axis.axvline(0.5, color="0.6", linewidth=0.8, linestyle="--")
                axis.set_xlim(-0.05, 1.05)
            if name == DIFFERENCE:
                axis.axvline(0, color="0.6", linewidth=0.8, linestyle="--")
        axes[0].set_yticks(range(len(arms)), arms)
        axes[0].set_ylim(len(arms) - 0.5, -0.5)
        axes[0].set_ylabel(section.title if rows > 1 else "")
    return figure


def _panels(report: Report, section: Section) -> dict[str, dict[str, Estimate]]:
    """Return name -> estimate by arm."""
    primary = title_of(report.study.primary)
    found = {column.name: column.values for column in section.columns}
    differences = next((column.values for column in section.differences if column.name == primary), None)
    return found if differences is None else {**found, DIFFERENCE: differences}


def draw_profiles(report: Report) -> Figure:
    """Draw a panel for each section."""
    figure, grid = _grid(report, [len(report.sections)])
    for axis, section in zip(grid[0], report.sections, strict=True):
        _profiles(axis, report, section)
    return _with_legend(figure, report)


def _profiles(axis: Axes, report: Report, section: Section) -> None:
    arms = table_of(report.scores, section.tasks, report.study.final_return)
    ends = [end for scores in arms.values() for value in scores for end in (value.min(), value.max())]
    lowest, highest = min([0.0, *ends]), max([0.0, *ends])
    thresholds = np.linspace(lowest, highest if highest > lowest else 1.0, POINTS)
    for index, arm in enumerate(report.arms):
        if arm in arms:
            value, low, high = _ends(performance_profile(arms[arm], thresholds))
            axis.step(thresholds, value, where="post", linewidth=1.6, **style(look(index)))
            if len(report.arms) <= MOST_TOGETHER and min(map(len, arms[arm])) >= FEW_SEEDS:
                axis.fill_between(thresholds, low, high, step="post", color=look(index).colour, **BAND)
    axis.set_ylim(-0.02, 1.02)
    axis.set_xlabel("threshold of the final return")
    axis.set_ylabel("share of runs above")
    axis.set_title(section.title, loc="left", fontsize=9)


def _grid(report: Report, blocks: Sequence[int]) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure, and so many axes for each block; blocks start on a new line."""
    columns = min(PANELS, max(blocks))
    lines = [-(-number // columns) for number in blocks]
    figure = Figure(figsize=(max(2.7 * columns, 4.5), 0.5 + 2.3 * sum(lines)), layout="constrained")
    axes: Any = figure.subplots(sum(lines), columns, squeeze=False)
    found, top = [], 0
    for number, height in zip(blocks, lines, strict=True):
        block = axes[top : top + height].ravel()
        for spare in block[number:]:
            spare.remove()
        found.append(list(block[:number]))
        top += height
    return figure, found


def _with_legend(figure: Figure, report: Report) -> Figure:
    """Name the arms below all panels."""
    stack(figure, [legend(figure, [line_handle(look(index), arm) for index, arm in enumerate(report.arms)])])
    return figure
