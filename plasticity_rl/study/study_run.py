"""A run of a study, and what it means for others: which start from it, and where it lies."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

RUN_FOLDER = "--trainer.default_root_dir"
"""Option with the folder of a run, the last of its arguments."""


@dataclass(frozen=True)
class StudyRun:
    """One run of a study.

    Attributes:
        levels: Level by factor.
        task: Name of the task.
        seed: Seed of everything; arms share seeds, and with them initial weights and evaluation episodes.
        folder: Its run folder; that of another study for a run that both have.
        arguments: What follows ``plasticity-rl fit``, without ``--ckpt_path``.
    """

    levels: Mapping[str, str]
    task: str
    seed: int
    folder: Path
    arguments: tuple[str, ...]

    @property
    def arm(self) -> str:
        """Levels in one word."""
        return "+".join(self.levels.values())

    @property
    def root(self) -> Path:
        """Folder of the study that it lies in."""
        return self.folder.parents[2]

    @property
    def name(self) -> str:
        """Task, levels and seed, as in the path of a folder."""
        return f"{self.task}/{self.arm}/seed{self.seed}"


def needed_by(run: StudyRun, runs: Iterable[StudyRun]) -> list[StudyRun]:
    """Return those of ``runs`` that must be finished before ``run`` starts.

    It names their folder, or a file in it, in an argument.
    """
    values = [argument.partition("=")[2] for argument in run.arguments]
    others = (other for other in runs if other.folder != run.folder)
    return [other for other in others if any(_lies_in(value, str(other.folder)) for value in values)]


def moved_to(folders: Mapping[str, Path], run: StudyRun) -> StudyRun:
    """Return a run that lies, and looks for others, where they are.

    Args:
        folders: Other folders of runs by those that the study would give them.
        run: The run.
    """
    arguments = []
    for argument in run.arguments:
        name, equals, value = argument.partition("=")
        arguments.append(f"{name}{equals}{path_in(folders, value)}")
    return replace(run, folder=folders.get(str(run.folder), run.folder), arguments=tuple(arguments))


def path_in(folders: Mapping[str, Path | str], path: str) -> str:
    """Return a path in the other folder that the first one it lies in has; any other text as it is."""
    old = next((folder for folder in folders if _lies_in(path, folder)), None)
    return path if old is None else f"{folders[old]}{path.removeprefix(old)}"


def folders_of(runs: Iterable[StudyRun]) -> str:
    """Name the folders of the studies that have these runs."""
    return ", ".join(dict.fromkeys(str(run.root) for run in runs))


def command(run: StudyRun, *, resume: bool = False) -> str:
    """Return the line that a shell would run."""
    return shlex.join(["plasticity-rl", "fit", *run.arguments, *(["--ckpt_path", "last"] if resume else [])])


def _lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")
