"""What a figure of runs shows, as plain data: matplotlib (``plots.py``) and the page in HTML draw the same.

``charts.chart_of`` turns arms (``arms.py``) into a :class:`Chart`::

    Chart    title, caption, notes     one figure
      arms   Entry(label, look, ...)   legend: its place in the list is the number of the arm
      panels Panel(task, title, unit)  in rows: all panels of one task, then those of the next
        lines  Line(label, look, arm, band, seeds)
               band: frames, iqm, low, high ``(points,)``, rows ``(seeds, points)``, is_drawn_as_band
        events Events(number, ...)     those of the arms in this panel
      events Events(number, arm, name, frames, texts)   the list below the figure

A band holds numbers that are ready to draw: smoothed, in bins, on one grid; ``low`` and ``high`` are drawn where
``band.is_drawn_as_band``, else each of ``band.rows`` is a thin line (``seeds`` names them) where there are several.
A look is a colour ``#rrggbb`` and a kind of line: a line is to look as its entry in the legend does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from plasticity_rl.results.arms import FRAME, Band

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Of Okabe & Ito: people with any kind of colour blindness tell them apart."""
DASHES: dict[str, tuple[float, ...]] = {
    "solid": (),
    "dashed": (3.5, 1.5),
    "dotted": (1, 1.5),
    "dashdot": (3.5, 1.5, 1, 1.5),
    "loosely dashed": (3.5, 4),
    "dashdotdot": (3.5, 1.5, 1, 1.5, 1, 1.5),
}
"""Line, gap, ... in widths of the line; past the last colour they start again with the next kind of line."""
INK, FAINT = "#222222", "#b3b3b3"
"""Of a single run's return, and of what stands behind."""
MOST_NAMED = 5
"""More events of one intervention than these are counted instead of listed."""


@dataclass(frozen=True)
class Look:
    """How a line looks.

    Attributes:
        colour: ``#rrggbb``.
        dash: One of :data:`DASHES`.
        points: Whether a short curve shows its points.
    """

    colour: str
    dash: str = "solid"
    points: bool = False


@dataclass(frozen=True)
class Entry:
    """An arm in the legend: all arms of that label, one for each task that has it.

    Attributes:
        label: Its name.
        look: Of its lines.
    """

    label: str
    look: Look


@dataclass(frozen=True)
class Line:
    """A curve of an arm in one quantity.

    Attributes:
        label: Of the arm, or in a panel with ``own_legend`` what tells the lines there apart.
        look: Colour and kind of line.
        arm: Number of the arm, its place in ``Chart.arms``.
        tag: What was logged.
        band: The numbers, at least one point.
        seeds: Seeds of the rows of ``band``.
        per_task: How many seeds each task has, of a line over several.
    """

    label: str
    look: Look
    arm: int
    tag: str
    band: Band
    seeds: tuple[int, ...]
    per_task: tuple[int, ...] = ()

    @property
    def numbers(self) -> tuple[int, ...]:
        """How many seeds it has, on each of its tasks."""
        return self.per_task or (len(self.seeds),)

    @property
    def words(self) -> str:
        """The label, with the number of seeds."""
        return with_seeds(self.label, self.numbers)


@dataclass(frozen=True)
class Events:
    """What one intervention of an arm did, all its events together.

    Attributes:
        number: By which marks and list find each other, from 1.
        arm: Number of the arm.
        task: Name of the task.
        name: Of the intervention, e.g. ``reset``.
        frames: Env frames, ascending.
        texts: What it did, by frame.
    """

    number: int
    arm: int
    task: str
    name: str
    frames: tuple[int, ...]
    texts: tuple[str, ...]

    @property
    def words(self) -> str:
        """What happened, in the words of the run if it was the same every time, and when."""
        said = {FRAME.sub("", text) for text in self.texts}
        name, count = said.pop() if len(said) == 1 else self.name.replace("_", " "), len(self.frames)
        if count <= MOST_NAMED:
            return f"{name} at {', '.join(f'{frame:,}' for frame in self.frames)}"
        gaps = [later - one for one, later in zip(self.frames, self.frames[1:], strict=False)]
        usual = max(gaps, key=gaps.count)
        every = f", every {usual:,}" if gaps.count(usual) > len(gaps) / 2 else ""
        return f"{name}, {count} times, {self.frames[0]:,} to {self.frames[-1]:,}{every}"


@dataclass(frozen=True)
class Panel:
    """A pair of axes.

    Attributes:
        task: Name of the task.
        title: What is drawn, in words.
        unit: Of the y-axis; empty where it is not known.
        lines: In the order of the arms.
        events: Of its arms.
        own_legend: Whether its lines are no arms, and are named in a legend of its own.
        low: The y-axis does not go below; None where there is no bound.
        high: The y-axis does not go above; None where there is no bound.
        from_zero: Whether the y-axis starts at 0 unless there are values below.
        scale: Panels of a task with the same scale have the same range of y; empty for none.
    """

    task: str
    title: str
    unit: str
    lines: list[Line]
    events: list[Events]
    own_legend: bool = False
    low: float | None = None
    high: float | None = None
    from_zero: bool = False
    scale: str = ""


@dataclass(frozen=True)
class Chart:
    """A figure.

    Attributes:
        title: Above all.
        arms: The legend.
        panels: By task, and for each task in the same order.
        events: All, by number.
        apart: Whether each arm should have axes of its own (small multiples), because in common ones nothing could be
            told from another.
        caption: What lines and bands are.
        notes: What was left out, a sentence each.
        behind: Number of the baseline where it alone stands in grey behind the others that are apart; None for all.
    """

    title: str
    arms: list[Entry]
    panels: list[Panel]
    events: list[Events]
    apart: bool
    caption: str
    notes: list[str]
    behind: int | None = None

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, in order."""
        return list(dict.fromkeys(panel.task for panel in self.panels))

    def words(self, arm: int) -> str:
        """Return the label of an arm, with the number of seeds of its lines in all panels."""
        lines = [line for panel in self.panels for line in panel.lines if line.arm == arm]
        return with_seeds(self.arms[arm].label, [number for line in lines for number in line.numbers])


def named_seeds(seeds: Sequence[int]) -> str:
    """Return seeds as ``seed 3`` or ``seeds 1, 2``."""
    return f"seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds))}"


def with_seeds(label: str, numbers: Sequence[int]) -> str:
    """Return a label with the number of seeds; with the least and the most where they are not as many everywhere."""
    if not numbers:
        return label
    fewest, most = min(numbers), max(numbers)
    count = str(most) if fewest == most else f"{fewest} to {most}"
    return f"{label}, {count} seed{'s' * (most != 1)}"


def look(index: int) -> Look:
    """Return colour and kind of line of the arm or module number ``index``."""
    return Look(COLOURS[index % len(COLOURS)], tuple(DASHES)[index // len(COLOURS) % len(DASHES)])


def show_frames(frames: float, _: Any = None) -> str:
    """Write a number of frames short: 0, 500, 20k, 1.5M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(frames) >= size:
            return f"{frames / size:.4g}{letter}"
    return f"{frames:.4g}"
