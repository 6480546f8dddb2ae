"""What the script of a page (``web/curves.js``) draws a chart from: JSON that may stand inside HTML.

::

    apart     whether bands and seeds are shown for one arm at a time, for there are many
    groups    panels of a task, which are hovered and zoomed together
      title   name of the task, where there are several
      panels  title, unit, digits, low, high, from_zero, frames [first, last]
        lines   key (what is hidden together), name, colour, dash, points, thin, frames, values, low, high, band, runs
        events  frame, key, text, colour, tick
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from plasticity_rl.results.digits import digits_of
from plasticity_rl.results.panels import DASHES, FAINT, Chart, Events, Line, Panel

DIGITS = 6
"""Significant digits of a number in a page: more are seen in no picture, and double its size."""
FEW_POINTS = 25
"""A curve with no more has its points drawn."""
MANY_EVENTS = 6
"""More events than these of one intervention and arm become ticks at the upper edge instead of lines."""
WIDTH = 2
"""Pixels of a line, as in ``web/curves.js``."""


def as_json(chart: Chart) -> str:
    """Return a chart as JSON that can stand inside a ``<script>``, whatever the names in it are.

    A name with ``</script>`` would end the element, one with ``<!--`` change how its end is found. JSON may write any
    letter as an escape, so neither is left.
    """
    tasks = chart.tasks
    groups = [
        {"title": task if len(tasks) > 1 else "", "panels": _panels(chart, [p for p in chart.panels if p.task == task])}
        for task in tasks
    ]
    text = json.dumps({"apart": chart.apart, "groups": groups}, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _panels(chart: Chart, panels: Sequence[Panel]) -> list[dict[str, Any]]:
    drawn = [panel for panel in panels if panel.lines]
    ends = [float(end) for panel in drawn for line in panel.lines for end in line.band.frames[[0, -1]]]
    ends += [float(frame) for panel in drawn for events in panel.events for frame in events.frames]
    return [
        {
            "title": panel.title,
            "unit": panel.unit,
            "digits": digits_of(float(value) for line in panel.lines for value in line.band.iqm),
            "low": panel.low,
            "high": panel.high,
            "from_zero": panel.from_zero,
            "frames": [min(ends), max(ends)],
            "lines": [_line(line, chart, panel) for line in panel.lines],
            "events": [mark for events in panel.events for mark in _marks(events, chart, panel)],
        }
        for panel in drawn
    ]


def _line(line: Line, chart: Chart, panel: Panel) -> dict[str, Any]:
    band = line.band
    has_ends = bool(np.isfinite(band.low).any())
    arm = chart.arms[line.arm]
    return {
        "key": line.label if panel.own_legend else arm.label,
        "name": line.label if panel.own_legend else line.words,
        "colour": line.look.colour,
        "dash": [WIDTH * length for length in DASHES[line.look.dash]],
        "points": (line.look.points and len(band.frames) <= FEW_POINTS) or len(band.frames) == 1,
        "thin": line.look.colour == FAINT,
        "frames": _numbers(band.frames),
        "values": _numbers(band.iqm),
        "low": _numbers(band.low) if has_ends else None,
        "high": _numbers(band.high) if has_ends else None,
        "band": band.is_drawn_as_band and has_ends,
        "runs": [_numbers(row) for row in band.rows] if band.num_runs > 1 and not band.is_drawn_as_band else [],
    }


def _marks(events: Events, chart: Chart, panel: Panel) -> Iterator[dict[str, Any]]:
    """Yield events by frame, each with what it did and in which arm."""
    arm, several = chart.arms[events.arm], len(chart.arms) > 1
    name = events.name.replace("_", " ")
    for frame, text in zip(events.frames, events.texts, strict=True):
        said = text if name in text.lower() else f"{name}: {text}" if text else name
        yield {
            "frame": int(frame),
            "key": "" if panel.own_legend else arm.label,
            "text": f"{arm.label}: {said}" if several else said,
            "colour": "" if panel.own_legend else arm.look.colour,
            "tick": len(set(events.frames)) > MANY_EVENTS,
        }


def _numbers(values: Any) -> list[float | None]:
    """Return finite numbers with few digits, whole ones without a point, and null for the others."""
    short = [float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None for value in values]
    return [int(value) if value is not None and value.is_integer() else value for value in short]
