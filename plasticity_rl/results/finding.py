"""Which runs are meant by folders that a user names: a run itself, or every run below."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from plasticity_rl.errors import UserError
from plasticity_rl.files.places import CONFIG_OF_A_RUN, expanded
from plasticity_rl.results.arms import key_of
from plasticity_rl.results.runs import Run, read_run


def find_runs(folders: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """Open the runs that folders are or hold.

    A run that is named must be readable. Of those found below a folder, what cannot be read is left out; so is a run
    that another one with the same options and seed has gone further than.

    Returns:
        The runs in the order of ``folders``, those of one folder by name, and what was left out, a sentence each.

    Raises:
        UserError: When a folder is no run and holds none, or a run that is named cannot be read.
    """
    named: dict[Path, Run] = {}
    found: dict[Path, Run] = {}
    notes: list[str] = []
    for folder in folders:
        place = expanded(folder, "the run folder")
        if (place / CONFIG_OF_A_RUN).is_file() or not place.is_dir():
            run = read_run(place)
            run.refuse_unreadable()
            named.setdefault(place.resolve(), run)
            continue
        inside = list(runs_below(place))
        if not inside:
            raise UserError(f"{place} is not a run folder and holds none: no folder in it has a {CONFIG_OF_A_RUN}")
        problems = []
        for one in inside:
            try:
                run = read_run(one)
                run.refuse_unreadable()
                found.setdefault(one.resolve(), run)
            except UserError as error:
                problems.append(str(error))
        if len(problems) == len(inside):
            raise UserError(f"{place}: none of its {len(inside)} runs can be read, the first because {problems[0]}")
        notes += [f"left out: {problem}" for problem in problems]
    found = {place: run for place, run in found.items() if place not in named}
    kept, repeats = _without_repeats(list(named.values()), list(found.values()))
    return [*named.values(), *kept], [*notes, *repeats]


def runs_below(folder: Path) -> Iterator[Path]:
    """Yield the run folders below a folder, by name; not into a run, nor into what a study has moved aside.

    Links to folders are followed, after the folders that are there themselves; no folder counts twice.
    """
    seen: set[str] = set()
    later = [str(folder)]
    while later:
        for place, inside, files in os.walk(later.pop(0)):
            real = os.path.realpath(place)
            if real in seen or CONFIG_OF_A_RUN in files:
                inside.clear()
            if CONFIG_OF_A_RUN in files and real not in seen:
                yield Path(place)
            seen.add(real)
            inside[:] = sorted(name for name in inside if not name.startswith(".") and not name.endswith("_stale"))
            later += [path for name in inside if os.path.islink(path := os.path.join(place, name))]


def _without_repeats(named: list[Run], found: list[Run]) -> tuple[list[Run], list[str]]:
    """Return the found runs that count, and of the others why not."""
    best = {(key_of(run), run.seed): run for run in named}
    notes = []
    for run in found:
        key = (key_of(run), run.seed)
        other = best.get(key)
        if other is None:
            best[key] = run
            continue
        # What was named stays; of equal ones the later name, which by default is the later start.
        stays, goes = (other, run) if other in named or _end(other) > _end(run) else (run, other)
        best[key] = stays
        notes.append(
            f"left out: {goes.folder} has the options and the seed of {stays.folder} (frame {_end(goes):,} and "
            f"{_end(stays):,})"
        )
    return [run for run in found if best[key_of(run), run.seed] is run], notes


def _end(run: Run) -> int:
    return max((int(curve.frames[-1]) for curve in run.curves.values() if len(curve.frames)), default=0)
