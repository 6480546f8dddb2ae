"""Figures of runs by matplotlib: draws a chart (``panels.py``), with its legend and the list of events below the axes.

Nothing touches pyplot or global settings, so it can be called from a notebook or a script as it is. Needs matplotlib
(the extra ``plot``).
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from plasticity_rl.results.arms import Band
from plasticity_rl.results.legends import below, legend_of_panel, line_style
from plasticity_rl.results.marks import mark
from plasticity_rl.results.panels import FAINT, Chart, Look, Panel, show_frames

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLE: Any = {
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "figure.titlesize": 10.5,
    "figure.titleweight": "bold",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "svg.hashsalt": "plasticity_rl",  # the same runs give the same file
    "pdf.fonttype": 42,  # text stays text
}
COLUMNS, COLUMNS_APART = 3, 4
"""Panels beside each other at most."""
LETTERS = 17
"""Letters of a title that fit into an inch."""
LETTERS_APART = 31
"""Letters of a title of small axes."""
FEW_POINTS = 25
"""Curves of no more points than these show them."""


def draw(chart: Chart) -> Figure:
    """Draw a chart: a row of panels for each task, or, where its arms are apart, a block of them for each panel."""
    with mpl.rc_context(STYLE):
        figure = _apart(chart) if chart.apart else _together(chart)
        if chart.title:
            width = int(figure.get_figwidth() * LETTERS * 0.85)
            figure.suptitle(textwrap.fill(chart.title, width), x=0.01, ha="left")
        below(figure, chart)
    return figure


def write(figure: Figure, target: str | Path | IO[Any], file_format: str, *, dots_per_inch: int = 200) -> None:
    """Write a figure as png, svg or pdf; the same figure gives the same bytes."""
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(file_format)
    with mpl.rc_context(STYLE):
        figure.savefig(target, format=file_format, dpi=dots_per_inch, metadata=undated)


def style(look: Look) -> dict[str, Any]:
    """Return a look in matplotlib's words."""
    return {"color": look.colour, "linestyle": line_style(look)}


def draw_line(axis: Axes, band: Band | None, look: Look) -> None:
    """Draw the runs of an arm in one tag: their IQM, and its band; of few runs no band but the runs, as thin lines.

    Args:
        axis: Where.
        band: The runs; None draws nothing.
        look: Of the line.
    """
    if band is None:
        return
    marker: dict[str, Any] = {"marker": "o", "markersize": 3} if look.points and len(band.frames) <= FEW_POINTS else {}
    if len(band.frames) == 1:
        marker = {"marker": "o", "markersize": 4}  # a line of one point is nothing
    axis.plot(band.frames, band.iqm, linewidth=1.6, zorder=3, **marker, **style(look))
    if band.is_drawn_as_band:
        axis.fill_between(band.frames, band.low, band.high, color=look.colour, alpha=0.18, linewidth=0, zorder=2)
    elif band.num_runs > 1:
        runs = [np.column_stack([band.frames, row]) for row in band.rows]
        axis.add_collection(LineCollection(runs, colors=look.colour, alpha=0.45, linewidth=0.7, zorder=2))
        axis.autoscale_view()


def frames_axis(axis: Axes, ticks: int = 5) -> None:
    """Write env frames short along the x-axis."""
    axis.xaxis.set_major_formatter(FuncFormatter(show_frames))
    axis.xaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))


# ---- all arms in one panel -------------------------------------------------------------------------------------------


def _together(chart: Chart) -> Figure:
    tasks = chart.tasks
    number = len(chart.panels) // len(tasks)
    columns = number if number <= COLUMNS else 2 if number == 4 else COLUMNS
    rows = -(-number // columns)
    figure = Figure(figsize=(max(3.5 * columns, 4.5), 0.4 + 2.5 * rows * len(tasks)), layout="constrained")
    grid: Any = figure.subplots(rows * len(tasks), columns, squeeze=False)
    for row, task in enumerate(tasks):
        cells = list(grid[row * rows : (row + 1) * rows].ravel())
        ours = [panel for panel in chart.panels if panel.task == task]
        for spare in cells[len(ours) :]:
            spare.remove()
        for axis, panel in zip(cells, ours, strict=False):
            for line in panel.lines:
                draw_line(axis, line.band, line.look)
            words = panel.title if len(tasks) == 1 else f"{task}: {panel.title}"
            height = mark(axis, panel.events, [None if panel.own_legend else entry.look.colour for entry in chart.arms])
            axis.set_title(textwrap.fill(words, int(3 * LETTERS)), pad=4 + height)
            axis.set_ylabel(panel.unit)
            axis.set_xlabel("env frames")
            frames_axis(axis)
        _limits([(panel, [axis]) for axis, panel in zip(cells, ours, strict=False)])
        for axis, panel in zip(cells, ours, strict=False):
            if panel.own_legend:
                legend_of_panel(axis, panel.lines)
    return figure


def _limits(panels: Sequence[tuple[Panel, Sequence[Axes]]]) -> None:
    """Keep y inside what is possible, and give panels of one scale one range, and all panels of a task one of x."""
    drawn = [(panel, axes) for panel, axes in panels if panel.lines]
    left = min((axis.get_xlim()[0] for _, axes in drawn for axis in axes), default=0.0)
    right = max((axis.get_xlim()[1] for _, axes in drawn for axis in axes), default=1.0)
    for panel, axes in panels:
        same = [
            one
            for other, several in drawn
            if other is panel or (panel.scale and other.scale == panel.scale)
            for one in several
        ]
        low = min((axis.get_ylim()[0] for axis in same), default=0.0)
        high = max((axis.get_ylim()[1] for axis in same), default=1.0)
        if panel.from_zero and (low > 0 or min(axis.dataLim.y0 for axis in same or axes) >= 0):
            low = 0.0
        low = low if panel.low is None else max(low, panel.low)
        high = high if panel.high is None else min(high, panel.high)
        for axis in axes:
            axis.set_xlim(left, right)
            axis.set_ylim(low, high)


# ---- small multiples -------------------------------------------------------------------------------------------------


def _apart(chart: Chart) -> Figure:
    """Draw a block of axes for each panel, one for each of its arms: that one in colour, the others faint behind it."""
    # An arm has the same place in every block of its task, also where it has no curve.
    places = {
        task: sorted({line.arm for panel in chart.panels if panel.task == task for line in panel.lines})
        for task in chart.tasks
    }
    blocks = [(panel, places[panel.task]) for panel in chart.panels]
    most = max(len(arms) for _, arms in blocks)
    columns = min(max(most, 1), COLUMNS_APART)
    rows = [-(-max(len(arms), 1) // columns) for _, arms in blocks]
    heights = [height for count in rows for height in (0.26, *[1.6] * count)]
    figure = Figure(figsize=(max(2.5 * columns, 4.5), 0.4 + sum(heights)), layout="constrained")
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    top = 0
    drawn: list[tuple[Panel, list[Axes]]] = []
    for (panel, arms), count in zip(blocks, rows, strict=True):
        head = figure.add_subplot(grid[top, :])
        head.set_axis_off()
        words = panel.title if len(chart.tasks) == 1 else f"{panel.task}: {panel.title}"
        head.text(0.0, 0.0, words, fontsize=9.5, weight="bold", transform=head.transAxes)
        axes = [
            figure.add_subplot(grid[top + 1 + place // columns, place % columns]) for place in range(max(len(arms), 1))
        ]
        for place, (axis, arm) in enumerate(zip(axes, arms, strict=False)):
            _draw_one(axis, panel, arm, chart)
            axis.set_ylabel(textwrap.fill(panel.unit, 15) if place % columns == 0 else "")
            axis.tick_params(labelleft=place % columns == 0, labelbottom=place + columns >= len(arms))
            axis.set_xlabel("env frames" if place + columns >= len(arms) else "")
        drawn.append((panel, axes))
        top += 1 + count
    for task in chart.tasks:
        _limits([(panel, axes) for panel, axes in drawn if panel.task == task])
    return figure


def _draw_one(axis: Axes, panel: Panel, arm: int, chart: Chart) -> None:
    for line in panel.lines:
        if line.arm == arm:
            draw_line(axis, line.band, Look(line.look.colour, points=line.look.points))
        elif chart.behind in (None, line.arm):
            axis.plot(line.band.frames, line.band.iqm, color=FAINT, linewidth=0.7, alpha=0.7, zorder=1)
    colours = [entry.look.colour for entry in chart.arms]
    height = mark(axis, [events for events in panel.events if events.arm == arm], colours)
    words = next((line.words for line in panel.lines if line.arm == arm), chart.arms[arm].label)
    words = words.replace(" seed", "\N{NO-BREAK SPACE}seed")
    axis.set_title(textwrap.fill(words, LETTERS_APART), fontsize=8.5, pad=4 + height)
    frames_axis(axis, ticks=4)
