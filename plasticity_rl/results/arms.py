"""Arms of an experiment: runs that differ in the seed alone, and their curves brought together."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from plasticity_rl.errors import UserError
from plasticity_rl.results.labels import LATER, label_of, short, with_other_arguments, without_nulls
from plasticity_rl.results.runs import Curve, Event, Run
from plasticity_rl.results.statistics import FEW_SEEDS, Floats, interval, iqm, iqm_of

NOT_PART_OF_AN_ARM = ("data.seed", "data.replay_dir", "data.storage", "data.max_frames", "model.seed")
"""Options in which the runs of one arm may differ: seeds, where the replay lies, how long the run is."""
OF_A_START = ("data.allow_empty_replay", "data.exact_resume", "data.resumable_epochs", "data.env_workers")
"""Options that may be others at a later start, and change no number."""
OF_THE_TRAINER = {"precision": "32-true", "gradient_clip_val": None, "gradient_clip_algorithm": None}
"""Options of the trainer that change what is learned, and what each is where a run's config is silent."""
SAME = {"32": "32-true", "64": "64-true", "16": "16-mixed", "bf16": "bf16-mixed"}
"""Short names of precisions, and what Lightning takes them for."""

FRAME = re.compile(r" at (?:env )?frame [\d,]+$")
"""End of the text of an event."""

Intervening = tuple[str, dict[str, Any]]
"""Class name and arguments of an intervention."""


@dataclass
class Arm:
    """Runs that differ in nothing but the seed.

    Attributes:
        task: Name of the task.
        label: What sets it apart from the other arms of the task.
        runs: Its runs, by seed.
    """

    task: str
    label: str
    runs: list[Run] = field(default_factory=list)

    def events(self) -> list[Event]:
        """Return the events of all runs, one for each frame and name, in the words of the first run that has it."""
        first: dict[tuple[int, str], Event] = {}
        for run in self.runs:
            texts: dict[tuple[int, str], list[str]] = {}
            for event in run.events:
                texts.setdefault((event.frame, event.name), []).append(event.text)
            for (frame, name), said in texts.items():
                first.setdefault((frame, name), Event(frame, name, _together(said)))
        return [first[key] for key in sorted(first)]


def _together(texts: Sequence[str]) -> str:
    """Return what several events of one frame did, with the frame at the end only."""
    different = [text for text in dict.fromkeys(texts) if text]
    return "; ".join([*(FRAME.sub("", text) for text in different[:-1]), *different[-1:]])


def arms_of(runs: Sequence[Run]) -> list[Arm]:
    """Group runs by task, interventions, and every other option of agent and data but the seed, also of later starts.

    The label of an arm names its interventions, with arguments only where arms share the names, and options only where
    they differ (:func:`plasticity_rl.results.labels.label_of`).

    Raises:
        UserError: When an arm holds the same seed twice: a run cannot count double.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault(key_of(run), []).append(run)
    first = [members[0] for members in groups.values()]
    arms: list[Arm] = []
    for (task, _), members in groups.items():
        own = members[0]
        members.sort(key=lambda run: run.seed)
        for one, two in zip(members, members[1:], strict=False):
            if one.seed == two.seed:
                raise UserError(
                    f"{one.folder} and {two.folder} are one experiment with the same seed {one.seed}; leave one out"
                )
        others = [other for other in first if other is not own]
        label = label_of(own, _settings(own), [_settings(other) for other in others if other.task == task], others)
        alike = sum(arm.task == task and arm.label.partition(" #")[0] == label for arm in arms)
        arms.append(Arm(task, f"{label} #{alike + 1}" if alike else label, members))
    return arms


def key_of(run: Run) -> tuple[str, str]:
    """Return what the runs of one arm have in common: the task, and every option but the seed."""
    return run.task, repr(sorted(without_nulls(_settings(run)).items()))


def _settings(run: Run) -> dict[str, Any]:
    """Everything an arm is defined by, flat, and what of it a run had otherwise from a later start."""
    first, later = _settings_of_a_start(run), [replace(run, config=config) for config in run.later_configs]
    found = [_settings_of_a_start(one) for one in later]
    changed: dict[str, str] = {}
    for key, value in first.items():
        values = [value, *(one[key] for one in found if key in one)]  # what one lacks may be younger than it is
        then = [after for before, after in zip(values, values[1:], strict=False) if after != before]
        if then and key not in (*OF_A_START, "interventions", "began_with_other_weights"):
            changed[f"{key}{LATER}"] = " then ".join(map(short, then))
    starts = [run.interventions, *(one.interventions for one in later)]
    words = [word for before, after in zip(starts, starts[1:], strict=False) for word in _joined(before, after)]
    return {**first, **changed, **({LATER: " then ".join(words)} if words else {})}


def _joined(before: Sequence[Intervening], after: Sequence[Intervening]) -> Iterator[str]:
    """Yield in words which interventions a start has that the one before had not, or not so, and which are gone."""
    gone, come = list(before), []
    for name, own in after:
        same = [
            one for one in gone if one[0] == name and all(own.get(key, value) == value for key, value in one[1].items())
        ]
        if same:
            gone.remove(same[0])
        else:
            come.append((name, own))
    for name, own in come:
        yield f"with {with_other_arguments(name, own, [arguments for other, arguments in gone if other == name])}"
    yield from (f"without {name}" for name, _ in gone if name not in dict(come))


def _settings_of_a_start(run: Run) -> dict[str, Any]:
    """Options by dotted key, interventions with their arguments."""
    options = {group: run.config.get(group) or {} for group in ("data", "model")}
    flat = {key: value for key, value in flatten(options, ".").items() if key not in NOT_PART_OF_AN_ARM}
    trainer = run.config.get("trainer") or {}
    flat |= {f"trainer.{key}": trainer.get(key) or silent for key, silent in OF_THE_TRAINER.items()}
    flat["trainer.precision"] = SAME.get(precision := str(flat["trainer.precision"]), precision)
    # Each seed may begin with weights of its own: that it does is part of an arm, which weights are not.
    flat["began_with_other_weights"] = run.config.get("init_weights") is not None
    interventions = sorted(repr(without_nulls(entry)) for entry in run.interventions)
    return {"agent": run.config.get("agent") or "drqv2", **flat, "interventions": interventions}


def flatten(tree: Mapping[str, Any], separator: str, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested dicts by joined key."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, separator, name + separator) if isinstance(value, Mapping) else {name: value}
    return flat


# ---- seeds together --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Band:
    """A curve of several runs.

    Attributes:
        frames: float64 ``(points,)``, the common grid.
        iqm: Interquartile mean over runs, ``(points,)``.
        low: Lower end of the 95 % interval, ``(points,)``; NaN where there is none, as for a single run.
        high: Upper end.
        num_runs: Runs that have the curve; over several tasks those of the task with the fewest.
        rows: The runs themselves on the grid, ``(runs, points)``; drawn in place of a band of few seeds.
    """

    frames: Floats
    iqm: Floats
    low: Floats
    high: Floats
    num_runs: int
    rows: Floats

    @property
    def is_drawn_as_band(self) -> bool:
        """Whether there are seeds enough for a band."""
        return self.num_runs >= FEW_SEEDS


def aggregate(curves: Sequence[Curve], *, max_points: int = 100) -> Band | None:
    """Bring the curves of several runs onto one grid, and reduce them to IQM and its interval at every point.

    The grid spans the frames that all runs have. A curve with more than ``max_points`` points there is first averaged
    in as many bins of equal width; then it is interpolated linearly on the grid.

    Args:
        curves: Same tag, one for each run; empty ones do not count.
        max_points: Most points of the result, at least 2.

    Returns:
        The band, or None when no curve has a point or they have no frames in common.
    """
    curves = [curve for curve in curves if len(curve.frames)]
    if not curves:
        return None
    first, last = max(curve.frames[0] for curve in curves), min(curve.frames[-1] for curve in curves)
    if first > last:
        return None
    frames = np.unique(np.concatenate([curve.frames for curve in curves]))
    grid = frames[(frames >= first) & (frames <= last)].astype(np.float64)
    if len(grid) > max_points:
        edges = np.linspace(first, last, max_points + 1)
        grid = (edges[:-1] + edges[1:]) / 2
        curves = [in_bins(curve, edges) for curve in curves]
    rows = np.stack([np.interp(grid, curve.frames, curve.values) for curve in curves])
    low, high = interval(iqm_of, [rows.T])
    return Band(grid, iqm(rows), low, high, len(curves), rows)


def in_bins(curve: Curve, edges: Floats) -> Curve:
    """Replace the points between each two ``edges`` by their mean, at their mean frame; bins without points vanish.

    A curve with no more points than bins stays as it is.
    """
    inside = (curve.frames >= edges[0]) & (curve.frames <= edges[-1])
    if np.count_nonzero(inside) < len(edges):
        return curve
    frames, values = curve.frames[inside], curve.values[inside]
    index = np.clip(np.searchsorted(edges, frames, side="right") - 1, 0, len(edges) - 2)
    counts = np.bincount(index, minlength=len(edges) - 1)
    filled = counts > 0
    means = [np.bincount(index, weights, len(edges) - 1)[filled] / counts[filled] for weights in (frames, values)]
    return Curve(means[0], means[1])
