"""From arms to what a figure shows (``panels.py``): which curves, in which panels, how they look, what is left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from plasticity_rl.results.arms import Arm, Band, aggregate
from plasticity_rl.results.panels import (
    COLOURS,
    FAINT,
    INK,
    Chart,
    Entry,
    Events,
    Line,
    Look,
    Panel,
    look,
    named_seeds,
    show_frames,
)
from plasticity_rl.results.quantities import FAU, REWARDS, Quantity, quantity
from plasticity_rl.results.runs import Curve, Run, not_finite
from plasticity_rl.results.smoothing import check_width, smoothed
from plasticity_rl.results.statistics import FEW_SEEDS

MOSTLY = 0.95
"""Runs of an arm that are as long as this share of its longest are as long as it."""
RETURN, TRAINING = "eval/return", "train/return"
MOST_TOGETHER = len(COLOURS)
"""More arms than these are drawn apart, for no colour is left."""
MOST_WITH_SEEDS = 4
"""More arms than these are drawn apart if there are several seeds: their bands would cover each other."""


def chart_of(
    arms: Sequence[Arm],
    *,
    tags: Sequence[str] = (),
    title: str | None = None,
    smooth_frames: float = 0,
    max_points: int = 100,
    apart: bool | None = None,
) -> Chart:
    """Bring arms together in a chart.

    Of one arm, without ``tags``: its return with that of the training episodes, and the FAU of all its modules in one
    panel. Else a panel for each tag, by default the return and the FAU of each module.

    Args:
        arms: From :func:`plasticity_rl.results.arms.arms_of`; those of one label are one entry of the legend.
        tags: What to draw, each the tag of a curve that a run has.
        title: Of the figure; by default the task, and of a single arm its label.
        smooth_frames: Width of a centred moving average in env frames; 0 for none.
        max_points: Most points of a line; longer curves are averaged in bins.
        apart: Whether each arm has axes of its own; by default where common ones could not be read.

    Raises:
        UserError: When a width of ``smooth_frames`` shows nothing.
    """
    labels = list(dict.fromkeys(arm.label for arm in arms))
    tasks = list(dict.fromkeys(arm.task for arm in arms))
    if smooth_frames:
        check_width(smooth_frames, (run.curves[tag] for run, tag in _drawn(arms, tags)))
    marks = _events(arms, labels)
    panels = []
    for task in tasks:
        ours = [(labels.index(arm.label), arm) for arm in arms if arm.task == task]
        draft = _of_one_arm(arms[0]) if len(arms) == 1 and not tags else _of_arms(ours, tags or default_tags(arms))
        for panel, wanted in draft:
            lines = [
                Line(label, its_look, number, tag, band, _seeds_with(arm, tag))
                for label, its_look, number, arm, tag in wanted
                if (band := band_of(arm, tag, max_points, smooth_frames)) is not None
            ]
            panels.append(replace(panel, lines=lines, events=[one for one in marks if one.task == task]))
    if title is None:
        title = ": ".join([", ".join(tasks), *(labels if len(labels) == 1 else [])])
    entries = [Entry(label, look(index)) for index, label in enumerate(labels)]
    apart = len(labels) > 1 and (_is_crowded(arms) if apart is None else apart)
    return Chart(title, entries, panels, marks, apart, _caption(panels, smooth_frames), left_out(arms, tags))


def default_tags(arms: Sequence[Arm]) -> list[str]:
    """Return what is drawn unless tags are named."""
    return [RETURN, *(f"fau/{module}" for module in fau_modules(arms))]


def fau_modules(arms: Sequence[Arm]) -> list[str]:
    """Return the modules whose FAU was logged in any run, in the order of logging."""
    tags = dict.fromkeys(tag for arm in arms for run in arm.runs for tag in run.curves)
    return [tag.removeprefix("fau/") for tag in tags if tag.startswith("fau/") and tag.count("/") == 1]


def band_of(arm: Arm, tag: str, max_points: int = 100, smooth_frames: float = 0) -> Band | None:
    """Return the runs of an arm brought together in one tag, or None where none has it.

    A curve with NaN or infinity is left out, for a mean with it is none; of a single run its finite points are taken.
    """
    curves = [smoothed(curve, smooth_frames) for _, curve in _taken(arm, tag)]
    return aggregate(curves, max_points=max_points)


def left_out(arms: Sequence[Arm], tags: Sequence[str] = ()) -> list[str]:
    """Return which curves of a figure are not finite, and what could not be read of files, one sentence each."""
    found = [problem for arm in arms for run in arm.runs for problem in run.problems]
    single = {id(arm.runs[0]) for arm in arms if len(arm.runs) == 1}
    for run, tag in _drawn(arms, tags):
        if bad := not_finite(tag, run.curves[tag]):
            what = "its other points are drawn" if id(run) in single else "left out of its line"
            found.append(f"{run.folder}: {bad}; {what}")
    for arm in arms:
        found += _shortened(arm, tags or default_tags(arms))
        found += _lacking(arm, tags or default_tags(arms))
        found += [
            f"no run of {arm.label} on {arm.task} has {tag}"
            for tag in tags
            if not any(tag in run.curves for run in arm.runs)
        ]
    return found


Wanted = tuple[str, Look, int, Arm, str]
"""Label, look, number of the arm, arm and tag of a line."""


def _of_one_arm(arm: Arm) -> list[tuple[Panel, list[Wanted]]]:
    """Return the panels of a single arm, in whose second the modules are together."""
    lines: list[Wanted] = [("evaluations", Look(INK, points=True), 0, arm, RETURN)]
    if len(arm.runs) == 1:
        lines.append(("training episodes", Look(FAINT), 0, arm, TRAINING))
    found = [(_panel(arm.task, replace(quantity(RETURN), name="return"), own_legend=True), lines)]
    if modules := fau_modules([arm]):
        panel = _panel(arm.task, replace(quantity(f"fau/{modules[0]}"), name=FAU), own_legend=True)
        found.append((panel, [(name, look(index), 0, arm, f"fau/{name}") for index, name in enumerate(modules)]))
    return found


def _of_arms(arms: Sequence[tuple[int, Arm]], tags: Sequence[str]) -> list[tuple[Panel, list[Wanted]]]:
    """Return a panel for each tag, with a line for each arm of a task."""
    found = []
    for tag in tags:
        points = quantity(tag).unit == REWARDS
        lines = [(arm.label, replace(look(number), points=points), number, arm, tag) for number, arm in arms]
        found.append((_panel(arms[0][1].task, quantity(tag)), lines))
    return found


def _panel(task: str, known: Quantity, *, own_legend: bool = False) -> Panel:
    """Return a panel without lines."""
    zero = known.unit == REWARDS
    return Panel(task, known.name, known.unit, [], [], own_legend, known.low, known.high, zero, known.scale)


def _events(arms: Sequence[Arm], labels: Sequence[str]) -> list[Events]:
    """Return the events of all arms by intervention; what equals another task's in arm and frames has its number."""
    numbers: dict[tuple[str, str, tuple[int, ...]], int] = {}
    found = []
    for arm in sorted(arms, key=lambda arm: labels.index(arm.label)):
        events = arm.events()
        for name in dict.fromkeys(event.name for event in events):
            ours = [event for event in events if event.name == name]
            frames = tuple(event.frame for event in ours)
            number = numbers.setdefault((arm.label, name, frames), len(numbers) + 1)
            texts = tuple(event.text for event in ours)
            found.append(Events(number, labels.index(arm.label), arm.task, name, frames, texts))
    return found


def _is_crowded(arms: Sequence[Arm]) -> bool:
    several = any(len(arm.runs) > 1 for arm in arms)
    most = max(sum(arm.task == task for arm in arms) for task in {arm.task for arm in arms})
    return most > (MOST_WITH_SEEDS if several else MOST_TOGETHER)


def _caption(panels: Iterable[Panel], smooth_frames: float) -> str:
    """Say what the lines are, of what is drawn."""
    counts = {line.band.num_runs for panel in panels for line in panel.lines}
    words = []
    if max(counts, default=1) > 1:
        words.append("Lines: interquartile mean over seeds.")
    if any(1 < count < FEW_SEEDS for count in counts):
        words.append("Thin lines: the seeds.")
    if any(count >= FEW_SEEDS for count in counts):
        words.append("Bands: its 95 % intervals.")
    if smooth_frames:
        words.append(f"Smoothed: centred moving average over {show_frames(smooth_frames)} env frames.")
    return " ".join(words)


def _shortened(arm: Arm, tags: Sequence[str]) -> list[str]:
    """Say to which frame lines of an arm go that end before their longest run; of a run that ends all lines once."""
    found: dict[Path, list[tuple[str, int, int]]] = {}
    drawn = 0
    for tag in tags:
        ends = {run.folder: int(curve.frames[-1]) for run, curve in _taken(arm, tag)}
        drawn += bool(ends)
        shortest, longest = min(ends, key=lambda folder: ends[folder], default=None), max(ends.values(), default=0)
        if shortest is not None and ends[shortest] < MOSTLY * longest:
            found.setdefault(shortest, []).append((tag, ends[shortest], longest))
    sentences = []
    for folder, short in found.items():
        what = "" if len(short) == drawn else f"{', '.join(tag for tag, _, _ in short)} of "
        verb = "are" if what and len(short) > 1 else "is"
        end, longest = max(end for _, end, _ in short), max(longest for _, _, longest in short)
        sentences.append(
            f"{what}{arm.label} on {arm.task} {verb} drawn to frame {end:,}, where {folder} ends; its longest run goes "
            f"on to {longest:,}"
        )
    return sentences


def _lacking(arm: Arm, tags: Sequence[str]) -> list[str]:
    """Say which runs of an arm have no curve of a tag that others of it have."""
    found: dict[tuple[int, ...], list[str]] = {}
    for tag in tags:
        without = tuple(run.seed for run in arm.runs if tag not in run.curves)
        if 0 < len(without) < len(arm.runs):
            found.setdefault(without, []).append(tag)
    return [
        f"{named_seeds(seeds)} of {arm.label} on {arm.task} ha{'ve' if len(seeds) > 1 else 's'} no {', '.join(own)}"
        for seeds, own in found.items()
    ]


def _drawn(arms: Sequence[Arm], tags: Sequence[str]) -> list[tuple[Run, str]]:
    """Return every run with each tag that is drawn of it."""
    single = len(arms) == len(arms[0].runs) == 1 and not tags
    names = [*(tags or default_tags(arms)), *([TRAINING] if single else [])]
    return [(run, tag) for arm in arms for run in arm.runs for tag in names if tag in run.curves]


def _taken(arm: Arm, tag: str) -> list[tuple[Run, Curve]]:
    """Return the runs of an arm that count in a tag, each with its curve."""
    found = [(run, run.curves[tag]) for run in arm.runs if tag in run.curves]
    if len(arm.runs) == 1:
        found = [(run, curve.finite()) for run, curve in found]
    return [(run, curve) for run, curve in found if curve.is_finite and len(curve.frames)]


def _seeds_with(arm: Arm, tag: str) -> tuple[int, ...]:
    return tuple(run.seed for run, _ in _taken(arm, tag))
