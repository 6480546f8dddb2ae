"""Move the folders of stale runs aside, so that they can be run anew and nothing is lost. Light."""

from __future__ import annotations

import datetime
import fcntl
from collections.abc import Sequence
from pathlib import Path

from plasticity_rl.errors import UserError
from plasticity_rl.study.study_run import StudyRun


def move_aside(runs: Sequence[StudyRun]) -> list[tuple[Path, Path]]:
    """Move the folders of runs, those that exist, to ``<folder of the study>_stale/<time>/``; return from and to.

    Raises:
        UserError: When a run is going on in one of them, and then nothing was moved; or one cannot be moved.
    """
    there = [run.folder for run in runs if run.folder.exists()]
    for folder in there:
        if _is_training(folder):
            raise UserError(f"--rerun_stale: a process is training in {folder}: stop it first")
    stamp = f"{datetime.datetime.now():%Y%m%d-%H%M%S}"
    moved = []
    for folder in there:
        root = folder.parents[2]
        target = _free(root.with_name(f"{root.name}_stale") / stamp / folder.relative_to(root))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(target)
        except OSError as error:
            raise UserError(
                f"--rerun_stale: {folder} cannot be moved to {target} ({error.strerror}): move it away by hand"
            ) from error
        moved.append((folder, target))
    return moved


def _free(target: Path) -> Path:
    """Return a path at which nothing is: a rename would replace an empty folder."""
    found, number = target, 1
    while found.exists():
        number += 1
        found = target.with_name(f"{target.name}_{number}")
    return found


def _is_training(folder: Path) -> bool:
    """Return whether a process holds the list of a run's starts, as :func:`plasticity_rl.run.folder.claim` does."""
    try:
        with (folder / "starts.yaml").open("rb") as starts:
            fcntl.flock(starts, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such file, or a file system without locks
        return False
    return False
