"""What callbacks cost: the measurement that is kept in ``docs/evidence``, as a table for ``docs/choosing.md``.

Made at full size with the command below that table.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import callbacks
from plasticity_rl import Probe

KEPT = Path(__file__).parent / "evidence" / "costs.json"
HEAD = ("callback", "every update", "one event, in updates", "period, in updates", "on average")


class Cost(NamedTuple):
    """What a callback adds to the time of an update.

    Attributes:
        name: The callback.
        percent: Added to every update.
        event_updates: Updates that could be made in the time of one event or measurement; None without events.
        period_updates: Updates from one event to the next in its file, of probes by default.
        error_percent: Differences that are no larger are also seen between equal runs.
    """

    name: str
    percent: float
    event_updates: float | None
    period_updates: float | None
    error_percent: float

    @property
    def percent_on_average(self) -> float:
        """What is added to an update on average, events included."""
        events = 100 * (self.event_updates or 0.0) / (self.period_updates or math.inf)
        return (self.percent if abs(self.percent) > self.error_percent else 0.0) + max(events, 0.0)

    def in_words(self) -> str:
        """Return what is added on average, as a cell of a table."""
        return _percent(self.percent_on_average, self.error_percent)

    def row(self) -> tuple[str, ...]:
        """Return the cells of the table after the name."""
        every = _percent(self.percent, self.error_percent) if self.error_percent else "nothing"
        if self.event_updates is None or self.period_updates is None:
            return every, "", "", self.in_words()
        small = 100 * self.event_updates <= self.error_percent
        event = f"below {self.error_percent / 100:.2f}" if small else f"{self.event_updates:.2g}"
        return every, event, f"{self.period_updates:.0f}", self.in_words()


@functools.cache
def measured() -> dict[str, Any]:
    """Return what is kept; read once."""
    return json.loads(KEPT.read_text(encoding="utf-8"))


def costs(found: Mapping[str, Any]) -> Iterator[Cost]:
    """Yield what each callback costs, interventions first."""
    told = found["callbacks"]
    for row in told["rows"]:
        if row["name"] in callbacks.__all__:
            event = None if row["event_ms"] is None else row["event_ms"] / told["plain_ms"]
            yield Cost(row["name"], row["percent"], event, row["period_updates"], told["error_percent"])
    plain, *rows = found["probes"]["rows"]
    classes = {kind().name: name for name in callbacks.__all__ if issubclass(kind := getattr(callbacks, name), Probe)}
    for row in rows:
        if row["name"] in classes:
            yield Cost(classes[row["name"]], 0.0, row["ms"] / plain["ms"], row["period_updates"], 0.0)


def caption(found: Mapping[str, Any]) -> str:
    """Return what was measured, on which machine, and how far equal runs lie apart."""
    machine, told = found["machine"], found["callbacks"]
    seconds, error = told["plain_ms"] / 1e3, told["error_percent"]
    return (
        f"Measured at the published size of DrQ-v2 on {machine['cores']} cores ({machine['cpu']}), torch "
        f"{machine['torch']}: {seconds:.2f} s of processor time for an update with its two env steps. Runs that do "
        f"nothing between their events seem to add up to {error:.1f} % or less there, which is the error: of twenty "
        "rows one is further off by chance. An event or a measurement is counted in updates that could be made in its "
        "time; *on average* spreads it over its period, that of the file in `configs/interventions/`, of probes the "
        "default."
    )


def left_out(found: Mapping[str, Any]) -> str:
    """Return which interventions were not measured, and why not."""
    told = found["callbacks"]["left_out"]
    return "Not in the table: " + "; ".join(f"`{name}` ({why})" for name, why in told.items()) + "."


@functools.cache
def costs_in_words() -> dict[str, str]:
    """Return by callback what it adds to an update on average, or why that is not known."""
    found = measured()
    return found["callbacks"]["left_out"] | {cost.name: cost.in_words() for cost in costs(found)}


def _percent(value: float, error: float) -> str:
    size = abs(value)
    if size <= error:
        return f"within {error:.1f} %"
    return f"{value:+.{0 if size >= 10 else 1 if size >= 1 else 2}f} %" if size >= 0.005 else "below 0.01 %"
