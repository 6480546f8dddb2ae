"""Read run folders back: configuration, curves and intervention events.

Everything comes from ``config.yaml`` and the TensorBoard event files, so it works on a run that is still going on, was
killed, or was copied from another machine.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from plasticity_rl.errors import UserError
from plasticity_rl.files.places import OF_LATER_STARTS, configs_in, expanded
from plasticity_rl.files.strict_yaml import load, with_texts
from plasticity_rl.former_names import todays_name
from plasticity_rl.results.events import Logged, event_files, read_events
from plasticity_rl.results.statistics import Floats

PACKAGE = "callbacks"
"""Ours, of interventions and probes."""
EVENT_PREFIX = "intervention/"


@dataclass(frozen=True)
class Curve:
    """A scalar over env frames, in order, one value a frame.

    Attributes:
        frames: ``(points,)``, whole numbers unless the points were averaged.
        values: float64 ``(points,)``.
    """

    frames: NDArray[Any]
    values: Floats

    @property
    def is_finite(self) -> bool:
        """Whether no value is NaN or infinite."""
        return bool(np.isfinite(self.values).all())

    def until(self, frame: int) -> Curve:
        """Return its points up to a frame, that one included."""
        inside = self.frames <= frame
        return Curve(self.frames[inside], self.values[inside])

    def read_until(self, frame: int) -> Curve:
        """Return its points up to a frame and, where none lies there and it goes on, the one of the line there.

        Else a run that is longer than others would have another end than they have, whose last point is that of their
        last step. What is not finite after the frame does not count.
        """
        kept = self.until(frame)
        if not len(kept.frames) or kept.frames[-1] == frame or self.frames[-1] <= frame:
            return kept
        value = np.interp(frame, self.frames, self.values)
        if not np.isfinite(value):
            return kept
        return Curve(np.append(kept.frames, frame), np.append(kept.values, value))

    def finite(self) -> Curve:
        """Return its points without those that are NaN or infinite."""
        finite = np.isfinite(self.values)
        return Curve(self.frames[finite], self.values[finite])


@dataclass(frozen=True)
class Event:
    """An intervention acted.

    Attributes:
        frame: Env frame.
        name: Intervention in snake case, e.g. ``reset``.
        text: What it did.
    """

    frame: int
    name: str
    text: str


@dataclass(frozen=True)
class Run:
    """A run folder as data; curves are read from the event files when they are first asked for.

    Attributes:
        folder: The run folder.
        config: What ``config.yaml`` holds.
    """

    folder: Path
    config: Mapping[str, Any]

    @property
    def task(self) -> str:
        """Name of the task."""
        return str(self.config["data"]["task"])

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.config["seed_everything"])

    @cached_property
    def max_frames(self) -> int | None:
        """Env frames at which its last start ends, the last step may pass them; None where no config says."""
        return [self.config, *self.later_configs][-1].get("max_frames")

    @cached_property
    def later_configs(self) -> list[Mapping[str, Any]]:
        """With which options it went on, by start; of those files that can be read."""
        files = [file for file in configs_in(self.folder) if file.name.startswith(OF_LATER_STARTS)]
        found = []
        for file in files:
            with contextlib.suppress(*_BROKEN):
                found.append(_checked(Run(self.folder, load(file.read_text(encoding="utf-8")))).config)
        return found

    @property
    def interventions(self) -> list[tuple[str, dict[str, Any]]]:
        """Class name and arguments of every intervention, in the order of the config; probes are left out.

        In paths the folder of a seed, as studies name it, is ``seed{seed}``: each starts from what its own one left.
        """
        return [
            (entry["class_path"].rpartition(".")[2], with_texts(dict(entry.get("init_args") or {}), self._of_any_seed))
            for entry in self._callbacks
            if not _only_watches(entry["class_path"])
        ]

    def _of_any_seed(self, path: str) -> str:
        return re.sub(rf"(?<=/)seed{self.seed}(?=/|$)", "seed{seed}", path)

    @property
    def class_paths(self) -> list[str]:
        """What the config calls its callbacks."""
        return [entry["class_path"] for entry in self._callbacks]

    @property
    def _callbacks(self) -> list[Any]:
        entries = self.config.get("trainer", {}).get("callbacks") or []
        return entries if isinstance(entries, list) else [entries]

    @cached_property
    def _logged(self) -> Logged:
        return read_events(self.folder)

    def refuse_unreadable(self) -> None:
        """Raise UserError when nothing of its event files can be read."""
        if not self._logged.num_records:
            raise UserError(f"{self.folder}: no point can be read: {'; '.join(self.problems)}")

    @property
    def problems(self) -> list[str]:
        """What of its event files cannot be read, one line each."""
        return self._logged.problems

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """Every scalar by tag."""
        return {tag: as_curve(points) for tag, points in self._logged.scalars.items()}

    @cached_property
    def events(self) -> list[Event]:
        """Every event of an intervention, by frame."""
        found = [
            Event(frame, tag.removeprefix(EVENT_PREFIX), text)
            for tag, points in self._logged.texts.items()
            if tag.startswith(EVENT_PREFIX)
            for frame, text in points
        ]
        return sorted(set(found), key=lambda event: (event.frame, event.name, event.text))


def as_curve(points: Iterable[tuple[int, float]]) -> Curve:
    """Return points in the order of writing as a curve.

    A run that was killed has written points after its last checkpoint; the resumed run writes them again. So a point
    that goes back in frames replaces all that were written at its frame or later.
    """
    frames: list[int] = []
    values: list[float] = []
    for frame, value in points:
        while frames and frames[-1] >= frame:
            frames.pop()
            values.pop()
        frames.append(frame)
        values.append(value)
    return Curve(np.array(frames, dtype=np.int64), np.array(values, dtype=np.float64))


def not_finite(tag: str, curve: Curve) -> str:
    """Return where a curve is NaN or infinite, or nothing."""
    bad = curve.frames[~np.isfinite(curve.values)]
    points = "1 point" if len(bad) == 1 else f"{len(bad)} points"
    return f"{tag} is not finite at {points}, first at frame {bad[0]:,}" if len(bad) else ""


_BROKEN = (OSError, yaml.YAMLError, RecursionError, LookupError, TypeError, ValueError, AttributeError, AssertionError)
"""What reading the config of no run raises."""


def _checked(run: Run) -> Run:
    """Return a run whose config says what everybody asks for."""
    assert run.task
    assert run.seed >= 0
    assert all(isinstance(path, str) for path in run.class_paths)
    return run


def read_run(folder: str | Path) -> Run:
    """Open a run folder.

    Raises:
        UserError: When it is not the folder of a run, or nothing was logged there.
    """
    folder = expanded(Path(folder), "the run folder")
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(
            f"{folder} is not a run folder: it holds no config.yaml (a run made by `fit` does; the curves of one made "
            "in Python: plasticity_rl.results.events.read_events(folder).scalars)"
        )
    try:
        run = _checked(Run(folder, load(path.read_text(encoding="utf-8"))))
    except _BROKEN as error:
        raise UserError(f"{path} is not the configuration of a run of plasticity_rl") from error
    if not event_files(folder):
        raise UserError(f"{folder} holds no TensorBoard events; was the run started with another --trainer.logger?")
    return run


def _only_watches(class_path: str) -> bool:
    """Whether a callback is none that could change learning: a probe, or a callback of Lightning or of our own core.

    Nothing is imported that the file names: it may be of somebody else. What is not of these packages counts as an
    intervention: rather two arms than two experiments in one curve.
    """
    import plasticity_rl
    from plasticity_rl.callback import Intervention, Probe

    callbacks = importlib.import_module(PACKAGE)
    path = todays_name(class_path)
    package, _, name = path.rpartition(".")
    if path.startswith("callbacks.") and name in callbacks.__all__:
        return issubclass(getattr(callbacks, name), Probe)  # of that name, wherever the file says that it lies
    if package == "plasticity_rl":
        cls = getattr(plasticity_rl, name) if name in plasticity_rl.__all__ else None
        return isinstance(cls, type) and not issubclass(cls, Intervention)
    return path.startswith(("plasticity_rl.run.", "lightning."))
