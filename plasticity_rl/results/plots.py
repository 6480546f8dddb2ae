"""Figures of runs: return and fraction of active units against env frames, events as vertical lines.

Colours are those of Okabe & Ito, which people with any kind of colour blindness tell apart. Nothing touches pyplot or
global settings, so it can be called from a notebook or a script as it is. Needs matplotlib (the extra ``plot``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import offset_copy

from plasticity_rl.results.arms import Arm, Band, aggregate
from plasticity_rl.results.runs import not_finite

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", ":", "-.")
"""Past the last colour they start again with the next kind of line."""
STYLE: Any = {
    "font.size": 9,
    "axes.labelsize": 9,
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
MANY_EVENTS = 6
"""More events than these of one intervention become ticks at the upper edge instead of lines."""


def draw(arms: Sequence[Arm], *, max_points: int = 100) -> Figure:
    """Draw arms of one or several tasks.

    One arm gets two panels, its return and the FAU of all its modules. Several arms get a panel for the return and one
    for each module, a colour for each arm. Several tasks get a row each. Of several seeds the interquartile mean is
    drawn, from five on with the band of its 95 % intervals, below that beside thin lines for the seeds; of a single one
    also the return of the training episodes.

    Args:
        arms: From :func:`plasticity_rl.results.arms.arms_of`.
        max_points: Most points of a line; longer curves are averaged in bins.
    """
    tasks = list(dict.fromkeys(arm.task for arm in arms))
    modules = fau_modules(arms)
    single = len(arms) == 1
    panels = ["eval/return", *(["fau"] if single and modules else [f"fau/{module}" for module in modules])]
    square = len(tasks) == 1 and len(panels) == 4
    rows, columns = (2, 2) if square else (len(tasks), len(panels))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(min(3.5 * columns, 11.0), 0.5 + 2.25 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, sharex="row" if len(tasks) > 1 else True, squeeze=False)
        grid: Any = axes.reshape(len(tasks), len(panels))
        for task, row in zip(tasks, grid, strict=True):
            ours = [(index, arm) for index, arm in enumerate(arms) if arm.task == task]
            _draw_row(row, panels, ours, modules, max_points, title=task if len(tasks) > 1 else "")
        for axis in axes[-1]:
            axis.set_xlabel("env frames")
        engine: Any = figure.get_layout_engine()
        engine.set(w_pad=0.08, h_pad=0.05)  # inches
        if single:
            _legends(grid[0], modules, arms[0])
        else:
            _legend(figure, arms)
    return figure


def write(figure: Figure, target: str | Path | IO[Any], file_format: str, *, dots_per_inch: int = 200) -> None:
    """Write a figure as png, svg or pdf; the same figure gives the same bytes."""
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(file_format)
    with mpl.rc_context(STYLE):
        figure.savefig(target, format=file_format, dpi=dots_per_inch, metadata=undated)


def fau_modules(arms: Sequence[Arm]) -> list[str]:
    """Return the modules whose FAU was logged in any run, in the order of logging."""
    tags = dict.fromkeys(tag for arm in arms for run in arm.runs for tag in run.curves)
    return [tag.removeprefix("fau/") for tag in tags if tag.startswith("fau/") and tag.count("/") == 1]


def band_of(arm: Arm, tag: str, max_points: int = 100) -> Band | None:
    """Return the runs of an arm brought together in one tag, or None where none has it.

    A curve with NaN or infinity is left out, for a mean with it is none; of a single run its finite points are taken.
    """
    curves = [run.curves[tag] for run in arm.runs if tag in run.curves]
    if len(arm.runs) == 1:
        curves = [curve.finite() for curve in curves]
    return aggregate([curve for curve in curves if curve.is_finite], max_points=max_points)


def left_out(arms: Sequence[Arm]) -> list[str]:
    """Return which curves of a figure are not finite, and what could not be read of files, one sentence each."""
    drawn = {"eval/return", *(f"fau/{module}" for module in fau_modules(arms))}
    found = []
    for arm in arms:
        tags = drawn | ({"train/return"} if len(arms) == len(arm.runs) == 1 else set())
        for run in arm.runs:
            found += run.problems
            for tag in sorted(tags & run.curves.keys()):
                if bad := not_finite(tag, run.curves[tag]):
                    what = "its other points are drawn" if len(arm.runs) == 1 else "left out of its line"
                    found.append(f"{run.folder}: {bad}; {what}")
    return found


def look(index: int) -> dict[str, Any]:
    """Return colour and kind of line of the arm or module number ``index``."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": LINES[index // len(COLOURS) % len(LINES)]}


def show_frames(frames: float, _: Any = None) -> str:
    """Write a number of frames short: 0, 500, 20k, 1.5M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(frames) >= size:
            return f"{frames / size:.4g}{letter}"
    return f"{frames:.4g}"


def _draw_row(
    row: Sequence[Axes],
    panels: Sequence[str],
    arms: Sequence[tuple[int, Arm]],
    modules: Sequence[str],
    max_points: int,
    title: str,
) -> None:
    fau_axes = [axis for axis, panel in zip(row, panels, strict=True) if panel.startswith("fau")]
    for axis, panel in zip(row, panels, strict=True):
        for index, arm in arms:
            if panel == "fau":
                for number, module in enumerate(modules):
                    draw_line(axis, band_of(arm, f"fau/{module}", max_points), look(number), points=False)
            else:
                style = {"color": "black"} if "fau" in panels else look(index)  # there, colours are modules
                draw_line(axis, band_of(arm, panel, max_points), style, points=panel == "eval/return")
        axis.xaxis.set_major_formatter(FuncFormatter(show_frames))
        axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axis.set_ylabel("fraction of active units" if panel == "fau" else panel.replace("fau/", "active units, "))
    several = any(len(arm.runs) > 1 for _, arm in arms)
    row[0].set_ylabel(f"{title}\nreturn" if title else "return (IQM)" if several else "return")
    if len(arms) == 1 and len(arms[0][1].runs) == 1:
        training = band_of(arms[0][1], "train/return", max_points)
        if training is not None:
            row[0].plot(training.frames, training.iqm, color="0.75", linewidth=1.0, zorder=1)
    _limits(row[0], fau_axes)
    colours = {index: "0.35" if len(arms) == 1 else look(index)["color"] for index, _ in arms}
    for axis in row:
        _events(axis, [(colours[index], arm) for index, arm in arms], labels=axis in (row[0], *row[1:2]))


def draw_line(axis: Axes, band: Band | None, style: dict[str, Any], *, points: bool = True) -> None:
    """Draw the runs of an arm in one tag: their IQM, and its band; of few runs no band but the runs, as thin lines.

    Args:
        axis: Where.
        band: The runs; None draws nothing.
        style: Colour, and kind of line.
        points: Whether a short curve shows its points.
    """
    if band is None:
        return
    marker: dict[str, Any] = {"marker": "o", "markersize": 3} if points and len(band.frames) <= 25 else {}
    axis.plot(band.frames, band.iqm, linewidth=1.6, zorder=3, **marker, **style)
    if band.is_drawn_as_band:
        axis.fill_between(band.frames, band.low, band.high, color=style["color"], alpha=0.18, linewidth=0, zorder=2)
    elif band.num_runs > 1:
        runs = [np.column_stack([band.frames, row]) for row in band.rows]
        axis.add_collection(LineCollection(runs, colors=style["color"], alpha=0.45, linewidth=0.7, zorder=2))
        axis.autoscale_view()


def _limits(returns: Axes, fau_axes: Sequence[Axes]) -> None:
    """Start returns at 0 unless there are negative ones; give all FAU panels of a row one scale inside [0, 1]."""
    if returns.get_ylim()[0] > 0 or returns.dataLim.y0 >= 0:
        returns.set_ylim(bottom=0)
    if fau_axes:
        low = min(axis.get_ylim()[0] for axis in fau_axes)
        high = max(axis.get_ylim()[1] for axis in fau_axes)
        for axis in fau_axes:
            axis.set_ylim(max(low, 0.0), min(high, 1.0))


def _events(axis: Axes, arms: Sequence[tuple[str, Arm]], *, labels: bool) -> None:
    """Mark events by thin lines, named above the panel; frequent ones by ticks along its upper edge."""
    upper = axis.get_xaxis_transform()
    named: dict[float, list[str]] = {}
    for colour, arm in arms:
        events = arm.events()
        for name in dict.fromkeys(event.name for event in events):
            frames = [event.frame for event in events if event.name == name]
            many = len(frames) > MANY_EVENTS
            low, high = (0.96, 1.0) if many else (0.0, 1.0)
            lines = axis.vlines(frames, low, high, transform=upper, color=colour, linewidth=0.8, zorder=1.5)
            lines.set_linestyle("solid" if many else (0, (4, 2)))
            shown = [frames[0]] if many else frames
            for frame in shown:
                words = name.replace("_", " ") + (f" ×{len(frames)}" if many else "")
                entry = named.setdefault(frame, [])
                if words not in entry:
                    entry.append(words)
    for at, several in named.items() if labels else ():
        axis.text(at, 1.01, ", ".join(several), transform=upper, fontsize=7.5, color="0.3", ha="center", va="bottom")


def _legend(figure: Figure, arms: Sequence[Arm]) -> None:
    """Name the arms above all panels."""
    handles = []
    for index, arm in enumerate(arms):
        seeds = f"{len(arm.runs)} seed{'s' if len(arm.runs) > 1 else ''}"
        handles.append(Line2D([], [], label=f"{arm.label}, {seeds}", **look(index)))
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 3), frameon=False)


def _legends(row: Sequence[Axes], modules: Sequence[str], arm: Arm) -> None:
    """Name the lines of a single arm above each panel, and above the names of its events."""
    seeds = f", {len(arm.runs)} seeds" if len(arm.runs) > 1 else ""
    returns = [Line2D([], [], label=f"evaluation{seeds}", marker="o", markersize=3, color="black")]
    if not seeds:
        returns.append(Line2D([], [], label="training episodes", color="0.75"))
    names = [Line2D([], [], label=module, **look(index)) for index, module in enumerate(modules)]
    points_up = 12 if arm.events() else 2
    for axis, handles in zip(row, (returns, names), strict=False):
        options = {"frameon": False, "handlelength": 1.6, "columnspacing": 1.2, "borderpad": 0.2}
        above = offset_copy(axis.transAxes, axis.get_figure(root=True), y=points_up, units="points")
        axis.legend(
            handles=handles,
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            bbox_transform=above,
            borderaxespad=0.0,
            ncols=len(handles),
            **options,
        )
