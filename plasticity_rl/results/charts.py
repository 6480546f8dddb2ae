"""What the interactive curves of a page are drawn from: plain numbers and names, as JSON that is safe inside HTML."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from plasticity_rl.results.arms import Band
from plasticity_rl.results.runs import Event

DIGITS = 6
"""Significant digits of a number in a page: more are seen in no picture, and double its size."""
FEW_POINTS = 25
"""A curve with no more has its points drawn."""
MANY_EVENTS = 6
"""More events than these of one name and arm become ticks at the upper edge instead of lines."""
DASHES = {"-": [], "--": [7, 3], ":": [2, 3], "-.": [7, 3, 2, 3]}
"""Kinds of line of matplotlib in pixels of a canvas: line, gap, ..."""


@dataclass(frozen=True)
class Line:
    """A curve of a chart.

    Attributes:
        name: What the legend calls it; lines of one name are hidden together, in all charts of a page.
        band: Its points, and their intervals or the seeds.
        colour: ``#rrggbb``.
        style: As matplotlib's: ``-``, ``--``, ``:`` or ``-.``.
        points: Whether a curve of few points shows them.
        thin: Whether it is drawn thin, as what is only there to compare.
    """

    name: str
    band: Band
    colour: str
    style: str = "-"
    points: bool = True
    thin: bool = False


@dataclass(frozen=True)
class Mark:
    """Something that happened in a run.

    Attributes:
        frame: Env frame.
        text: What it was.
        arm: Name of the line with which it is hidden; empty: none.
        colour: ``#rrggbb``.
        many: Whether it is one of so many that it is a tick at the edge.
    """

    frame: int
    text: str
    arm: str
    colour: str
    many: bool = False


@dataclass(frozen=True)
class Chart:
    """A panel.

    Attributes:
        label: What is drawn, with its unit.
        lines: Curves.
        marks: Events.
        digits: Behind the point, of values that are shown.
        low: Lowest value that there can be, or None.
        high: Highest, or None.
        from_low: Whether the axis starts at ``low``, wherever the curves are.
    """

    label: str
    lines: Sequence[Line]
    marks: Sequence[Mark] = ()
    digits: int = 3
    low: float | None = None
    high: float | None = None
    from_low: bool = False


@dataclass(frozen=True)
class Group:
    """Charts that share their frames: hovered, zoomed and reset together.

    Attributes:
        title: Name of the task; empty: none is shown.
        charts: Its charts.
    """

    title: str
    charts: Sequence[Chart]


def marks_of(events: Sequence[Event], arm: str, colour: str) -> list[Mark]:
    """Return the events of an arm; ``reset: critic`` where an event says what it did, else its name."""
    frames: dict[str, set[int]] = {}
    for event in events:
        frames.setdefault(event.name, set()).add(event.frame)
    found = []
    for event in events:
        name = event.name.replace("_", " ")
        said = event.text if event.text.startswith(name) or not event.text else f"{name}: {event.text}"
        found.append(Mark(event.frame, said or name, arm, colour, len(frames[event.name]) > MANY_EVENTS))
    return found


def limits_of(tag: str, lines: Sequence[Line]) -> dict[str, Any]:
    """Return the digits and limits of the chart of a tag: returns start at 0 where none is negative, shares at most 1."""
    if tag.endswith("return"):
        lowest = min((float(np.nanmin(line.band.iqm)) for line in lines), default=0.0)
        return {"digits": 1, "low": 0.0, "from_low": True} if lowest >= 0 else {"digits": 1}
    return {"low": 0.0, "high": 1.0} if tag.startswith("fau") else {}


def as_json(groups: Sequence[Group]) -> str:
    """Return groups of charts as JSON that can stand inside a ``<script>``, whatever the names in it are.

    A name with ``</script>`` would end the element, one with ``<!--`` change how its end is found. JSON may write any
    letter as an escape, so no such letter is left.
    """
    data = [{"title": group.title, "charts": _charts(group.charts)} for group in groups]
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _charts(charts: Sequence[Chart]) -> list[dict[str, Any]]:
    ends = [float(end) for chart in charts for line in chart.lines for end in line.band.frames[[0, -1]]]
    frames = ends + [float(mark.frame) for chart in charts for mark in chart.marks]
    return [_chart(chart, [min(frames), max(frames)]) for chart in charts if chart.lines]


def _chart(chart: Chart, frames: Sequence[float]) -> dict[str, Any]:
    marks = [
        {"frame": mark.frame, "text": mark.text, "arm": mark.arm, "colour": mark.colour, "many": mark.many}
        for mark in chart.marks
    ]
    return {
        "label": chart.label,
        "digits": chart.digits,
        "low": chart.low,
        "high": chart.high,
        "from_low": chart.from_low,
        "range": list(frames),
        "lines": [_line(line) for line in chart.lines],
        "events": marks,
    }


def _line(line: Line) -> dict[str, Any]:
    band = line.band
    has_ends = bool(np.isfinite(band.low).any())
    return {
        "name": line.name,
        "colour": line.colour,
        "dash": DASHES[line.style],
        "thin": line.thin,
        "points": line.points and len(band.frames) <= FEW_POINTS,
        "frames": _numbers(band.frames),
        "values": _numbers(band.iqm),
        "low": _numbers(band.low) if has_ends else None,
        "high": _numbers(band.high) if has_ends else None,
        "band": band.is_drawn_as_band and has_ends,
        "runs": [_numbers(row) for row in band.rows] if band.num_runs > 1 and not band.is_drawn_as_band else [],
    }


def _numbers(values: Any) -> list[float | None]:
    """Return finite numbers with few digits, whole ones without a point, and null for the others."""
    short = [float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None for value in values]
    return [int(value) if value is not None and value.is_integer() else value for value in short]
