"""The page that ``plot`` writes: curves to hover, the last value of each as a table, and events of interventions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from plasticity_rl.results.digits import digits_of
from plasticity_rl.results.page import Html, curves, drawing_of, element, page, table
from plasticity_rl.results.panels import FAINT, Chart, Events, Line, named_seeds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RETURN = "eval/return"
LAST = "Last point of every curve: interquartile mean over seeds, in brackets its 95 % interval where there is one."
SPELLED = "FAU: fraction of active units, the share of a module's hidden units that are above zero."


def page_of(chart: Chart, figure: Figure) -> str:
    """Return a page that needs no network.

    Args:
        chart: What is drawn.
        figure: The same as matplotlib drew it, for readers without scripts and for paper.
    """
    rows = last_values(chart)
    spelled = [SPELLED] if any(cell.startswith("FAU") for cell in rows[0]) else []
    parts = [
        element("h1", chart.title or "Runs"),
        curves(drawing_of(figure), chart.caption),
        element("h2", "Last values"),
        table(rows, left=2),
        *(element("p", line, class_="quiet") for line in (LAST, *spelled)),
        *(element("p", f"{line}.") for line in chart.notes),
        *_events(chart),
    ]
    tasks = ", ".join(chart.tasks)
    return page(f"plasticity_rl: {chart.title or tasks}", parts, chart)


def last_values(chart: Chart) -> list[list[str]]:
    """Return the last values of the curves of every arm and task, under a head."""
    lines = [(panel.task, line) for panel in chart.panels for line in panel.lines if line.look.colour != FAINT]
    tags = list(dict.fromkeys(line.tag for _, line in lines))
    rows = [["task", "arm", "seeds", "env frames", *map(_head, tags)]]
    digits = {tag: digits_of(float(line.band.iqm[-1]) for _, line in lines if line.tag == tag) for tag in tags}
    for number, arm in enumerate(chart.arms):
        for task in chart.tasks:
            own = {line.tag: line for its_task, line in lines if (its_task, line.arm) == (task, number)}
            if own:
                seeds = sorted({seed for line in own.values() for seed in line.seeds})
                longest = own.get(RETURN) or next(iter(own.values()))
                cells = [_value(own[tag], digits[tag], seeds) if tag in own else "" for tag in tags]
                rows.append([task, arm.label, ", ".join(map(str, seeds)), f"{longest.band.frames[-1]:,.0f}", *cells])
    return rows


def _head(tag: str) -> str:
    if tag == RETURN:
        return "return"
    return f"FAU, {tag.removeprefix('fau/').replace('/', ', ')}" if tag.startswith("fau/") else tag


def _value(line: Line, digits: int, seeds: Sequence[int]) -> str:
    """Return the last value of a line, with its seeds where they are not those of its row."""
    value, low, high = (float(values[-1]) for values in (line.band.iqm, line.band.low, line.band.high))
    interval = f" [{low:.{digits}f}, {high:.{digits}f}]" if math.isfinite(low) else ""
    own = f" ({named_seeds(line.seeds)})"
    return f"{value:.{digits}f}{interval}{own * (sorted(line.seeds) != seeds)}"


def _events(chart: Chart) -> list[Html]:
    """Return the list of events; the static figure has its numbers."""
    if not chart.events:
        return []
    by_number: dict[int, list[Events]] = {}
    for events in chart.events:
        by_number.setdefault(events.number, []).append(events)
    items = [element("li", _sentence(chart, own), value=str(number)) for number, own in sorted(by_number.items())]
    return [element("h2", "Events of interventions"), element("ol", *items)]


def _sentence(chart: Chart, events: Sequence[Events]) -> str:
    tasks = f" ({', '.join(dict.fromkeys(one.task for one in events))})" if len(chart.tasks) > 1 else ""
    return f"{chart.arms[events[0].arm].label}{tasks}: {events[0].words}"
