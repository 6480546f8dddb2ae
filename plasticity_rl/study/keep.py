"""The finished runs of a study in one small file, with all that a report reads of them and nothing else.

A run folder holds checkpoints, a replay buffer and curves that no report shows; what a report reads is a thousandth of
it. The file is an archive of run folders as ``study run`` leaves them, each reduced to its options, its origin, and one
event file with the curves and events of the report: what reads run folders reads these, and TensorBoard does too.
``kept.py`` reads it back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from plasticity_rl.errors import UserError
from plasticity_rl.files.credentials import holds_secret, mentions_secret, without_secrets
from plasticity_rl.files.packing import ENDING, packed
from plasticity_rl.files.places import configs_in
from plasticity_rl.files.strict_yaml import load
from plasticity_rl.results.event_writing import event_file
from plasticity_rl.results.events import LOST_BEFORE
from plasticity_rl.results.runs import Curve, Run
from plasticity_rl.study.endpoints import AREA, RETURN_AFTER_TRAINING
from plasticity_rl.study.extends import RESOLVED, resolved_text
from plasticity_rl.study.human_scores import RETURN_TAG
from plasticity_rl.study.origins import NOTED, starts_of
from plasticity_rl.study.scores import is_fau, read_if_finished, refuse_unreadable
from plasticity_rl.study.spec import Study
from plasticity_rl.study.stale import Provenance
from plasticity_rl.study.study_run import StudyRun, folders_of

MANIFEST = "kept.yaml"
FORMAT = 1
EVENTS = "events.out.tfevents.kept"
"""Name of the one event file of a run; those of a run that trains have its time and host."""
FINISHED, STARTS = "finished.yaml", "starts.yaml"


def keep(study: Study, provenance: Provenance, tags: Sequence[str] = ()) -> tuple[bytes, list[str]]:
    """Return the content of the file, and the names of the runs in it.

    Args:
        study: The study, read from a file.
        provenance: Which of its runs are stale; they are left out, and named in the file.
        tags: Further curves to keep, ``*`` is any text; a report does not show them, ``plot`` can.

    Raises:
        UserError: When no run is finished and can be read, no run has one of ``tags``, or they are too much for a file.
    """
    runs = study.runs()
    found = {run.name: read_if_finished(run, study, provenance.stale) for run in runs}
    data = {name: one for name, (_, one) in found.items() if one is not None}
    missing = {name: state for name, (state, _) in found.items() if name not in data}
    finished = [run for run in runs if run.name in data]
    if not finished:
        refuse_unreadable(study, missing)
        raise UserError(f"no run of {study.name} is finished in {folders_of(runs)}: plasticity-rl study run first")
    for tag in tags:
        if not any(fnmatchcase(one, _pattern(tag)) for run in data.values() for one in run.curves):
            raise UserError(f"--tags {tag}: no finished run of {study.name} has such a curve")
    manifest = {
        "format": FORMAT,
        "study": study.name,
        "runs": [run.name for run in finished],
        "missing": missing,
        "stale": dict(provenance.stale),
    }
    top = {MANIFEST: _yaml(manifest), RESOLVED: _study_file(study)}

    def files() -> Iterator[tuple[str, bytes]]:
        """Yield all files in the order of their names, those of a run made when its turn comes."""
        folders = {f"{place_of(run.name)}/": run for run in finished}
        for name in sorted([*top, *folders]):
            if name in top:
                yield name, top[name]
                continue
            run = folders[name]
            own = _run_files(run, data[run.name], _kept_curves(study, data[run.name], tags))
            yield from ((f"{name}{file}", own[file]) for file in sorted(own))

    return packed(files()), [run.name for run in finished]


def place_of(name: str) -> str:
    """Return the folder of a run in the file; of one shared with another study too, as if it were this one's alone."""
    return name.replace(":", "-")


def _study_file(study: Study) -> bytes:
    assert study.file is not None
    text = resolved_text(study.file, study.name, study.folder)
    if mentions_secret(load(text)):
        raise UserError(
            f"{study.file} holds what looks like a password or a key, and what is kept is there to be given away: take "
            "it out of the study, e.g. into a variable of the environment"
        )
    return text.encode()


def _kept_curves(study: Study, run: Run, tags: Sequence[str]) -> dict[str, Curve]:
    """Return the curves that a report on the study can ask for."""
    endpoints = (study.primary, *study.secondary, study.final_return, AREA, RETURN_AFTER_TRAINING)
    named = {*(endpoint.tag for endpoint in endpoints), *study.measures}
    return {
        tag: curve
        for tag, curve in run.curves.items()
        if tag in named
        or is_fau(tag)
        or (study.normalize and RETURN_TAG.fullmatch(tag))  # games are told from the returns of all tasks
        or any(fnmatchcase(tag, _pattern(one)) for one in tags)
    }


def _pattern(tag: str) -> str:
    """Return a tag with ``*`` for any text as a pattern in which nothing else means anything."""
    return tag.replace("[", "[[]").replace("?", "[?]")


def _run_files(run: StudyRun, data: Run, curves: Mapping[str, Curve]) -> dict[str, bytes]:
    files = {path.name: _config(path) for path in configs_in(run.folder)}
    files[FINISHED] = (run.folder / FINISHED).read_bytes()
    if starts := starts_of(run.folder):
        files[STARTS] = _yaml([{name: start[name] for name in NOTED if name in start} for start in starts])
    files[EVENTS] = event_file(curves, data.events)
    if data.problems:
        files[LOST_BEFORE] = "\n".join([*data.problems, ""]).encode()
    return files


def _config(path: Path) -> bytes:
    """Return a file of options as it is, but with ``***`` for passwords and keys: what is kept is there to be given."""
    try:
        text = path.read_text(encoding="utf-8")
        content = load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return path.read_bytes()  # unreadable, which makes it stale: never here but for a race
    return _yaml(without_secrets(content)) if holds_secret(content) else text.encode()


def _yaml(content: Any) -> bytes:
    return yaml.safe_dump(content, sort_keys=False, width=120, allow_unicode=True).encode()


def refuse_to_overwrite(path: Path) -> None:
    """Raise UserError when ``path`` is taken, or its name is that of another kind of file."""
    if not path.name.endswith(ENDING):
        raise UserError(f"--out {path}: the file must end in {ENDING}")
    if path.exists() or path.is_symlink():
        raise UserError(f"--out {path} exists already, and is not overwritten: choose another name, or move it away")
