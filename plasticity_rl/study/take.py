"""Kept runs put back where ``study run`` looks for them: a study that goes on elsewhere, with what is finished already.

What comes back is what a report reads. No checkpoint is in it, so a run that was taken is finished and cannot be made
longer.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from plasticity_rl.errors import UserError
from plasticity_rl.study.kept import Kept
from plasticity_rl.study.spec import Study, finished_frames, state_of
from plasticity_rl.study.stale import Provenance, named
from plasticity_rl.study.study_run import StudyRun, folders_of, needed_by


def usable_runs(study: Study, kept: Kept, provenance: Provenance) -> list[StudyRun]:
    """Return the runs of a study that a file has, finished and with today's options.

    Args:
        study: The study.
        kept: Runs of it from a file.
        provenance: Which of those are stale as the study is now.
    """
    there = {run.name: state_of(run, study.max_frames, provenance.stale) for run in kept.study.runs()}
    return [run for run in study.runs() if there[run.name] == "finished"]


def without_donors(study: Study, usable: Sequence[StudyRun]) -> list[StudyRun]:
    """Leave out the runs that others, which are still to be trained, start from: checkpoints are not kept."""
    finished = [run.name for run in study.runs() if state_of(run, study.max_frames) == "finished"]
    left = list(usable)
    while True:
        names = [*finished, *(run.name for run in left)]
        waiting = [run for run in study.runs() if run.name not in names]
        donors = [donor.name for run in waiting for donor in needed_by(run, left)]
        if not donors:
            return left
        left = [run for run in left if run.name not in donors]


def take(
    study: Study, kept: Kept, provenance: Provenance, usable: Sequence[StudyRun], free: Sequence[StudyRun]
) -> list[str]:
    """Copy the folders of runs into that of the study; return lines for the user.

    A run that another study has too is copied there as well: it has the curves of this study, not of the other one.

    Args:
        study: The study.
        kept: Runs of it from a file.
        provenance: Which of those are stale as the study is now.
        usable: As :func:`usable_runs` returns them.
        free: Those that are taken: they have no folder yet, here or there, and no run starts from them.

    Raises:
        UserError: When a folder cannot be written.
    """
    source = {run.name: run.folder for run in kept.study.runs()}
    target = {run.name: run.folder for run in study.own_runs()}
    for run in free:
        _copy(source[run.name], target[run.name])
    return list(_said(study, kept, provenance, usable, free))


def _said(
    study: Study, kept: Kept, provenance: Provenance, usable: Sequence[StudyRun], taken: Sequence[StudyRun]
) -> Iterator[str]:
    yield f"Taken from {kept.file}: {len(taken)} of {len(study.runs())} runs"
    others = [run for run in usable if run not in taken]
    if there := [run for run in others if run.folder.exists()]:
        yield f"note: {len(there)} more have a folder in {folders_of(there)}, which is left as it is"
    if donors := [run.name for run in others if run not in there]:
        yield f"note: not taken, for others are still to start from them and no checkpoint is kept: {named(donors)}"
    in_file = [run for run in kept.study.runs() if finished_frames(run.folder) is not None]
    if stale := [f"{run.name} ({provenance.stale[run.name]})" for run in in_file if run.name in provenance.stale]:
        yield f"note: not taken, of other options than the study has now: {named(stale)}"
    names = {run.name for run in usable} | set(provenance.stale)
    if short := [run.name for run in in_file if run.name not in names]:
        yield f"note: not taken, shorter than the {study.max_frames:,} frames of the study: {named(short)}"


def _copy(source: Path, target: Path) -> None:
    """Copy a folder as a whole: one that is there is complete."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".taken_") as draft:
            copied = shutil.copytree(source, Path(draft, target.name))
            copied.rename(target)
    except OSError as error:
        raise UserError(
            f"--from: {target} cannot be written ({error.strerror}): move it away, or free space"
        ) from error


def refuse_without_checkpoint(runs: Sequence[StudyRun], max_frames: int) -> None:
    """Raise UserError for runs that ended before ``max_frames`` and have no checkpoint to go on from."""
    ended = [run.name for run in runs if state_of(run, max_frames) == "new" and finished_frames(run.folder) is not None]
    if ended:
        raise UserError(
            f"max_frames is {max_frames:,} now, and runs that ended before have no checkpoint to go on from (--from "
            f"brings none): {named(ended)}; move their folders away to run them anew, or set max_frames back"
        )
