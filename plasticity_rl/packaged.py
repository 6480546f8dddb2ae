"""Configs, studies and examples that come with the package, and how a name on the command line finds one. Light.

An installed wheel holds them in ``plasticity_rl/_packaged``; in a checkout, and with an editable install, they are the
repository's own. Names are resolved once, by the console script and by the reader of studies; whatever reads a file
afterwards is given one that exists.
"""

from __future__ import annotations

import difflib
import importlib.resources
import itertools
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from plasticity_rl.errors import UserError
from plasticity_rl.files.places import expanded

CONFIG = ("--config", "-c")
CONFIGS, STUDIES, EXAMPLES = "configs", "configs/studies", "examples"
SUFFIXES = (".yaml", ".yml")
LONGEST_PIPE = 1_000_000
"""Characters that are read of a config from a pipe, which may have no end."""


def root() -> Path:
    """Return the folder that holds ``configs`` and ``examples``."""
    package = Path(str(importlib.resources.files("plasticity_rl")))
    inside = package / "_packaged"
    return inside if inside.is_dir() else package.parent


def config_names() -> dict[str, Path]:
    """Return the packaged files for ``--config`` by name: ``quickstart``, ``task/walker_run`` ..."""
    studies = root() / STUDIES
    return {name: path for name, path in _names(CONFIGS).items() if studies not in path.parents}


def study_names() -> dict[str, Path]:
    """Return the packaged studies by name: ``augmentation_x_reset``, ``mini/augmentation_x_reset`` ..."""
    return _names(STUDIES)


def _names(folder: str) -> dict[str, Path]:
    """Return the files of YAML below a packaged folder by name, those that lie deepest last.

    One that begins with ``_`` is a part that others are made of (``extends`` of a study), and nothing by itself.
    """
    top = root() / folder
    paths = sorted(top.rglob("[!_]*.yaml"), key=lambda path: (len(path.parts), path))
    return {path.relative_to(top).with_suffix("").as_posix(): path for path in paths}


def find_config(name: str) -> Path | None:
    """Return the file that ``--config NAME`` means, or None: as given, else among the packaged ones.

    A packaged file goes by its path, ``configs/task/walker_run.yaml``, with or without ``configs/`` and the ending;
    without both also by its last part, ``walker_run``. Its copy in ``configs/`` of the current folder comes first.
    """
    return _find(name, CONFIGS, config_names())


def find_study(name: str) -> Path | None:
    """Return the study file that a name means, or None: as given, else among the packaged ones, as above."""
    return _find(name, STUDIES, study_names())


def _find(name: str, folder: str, names: Mapping[str, Path]) -> Path | None:
    name = expanded(name, folder.rpartition("/")[2])
    if os.path.isfile(name):  # unlike Path.is_file without a word for what cannot be a path at all
        return Path(name)
    short = _short(name, folder)
    if short not in names and not name.endswith(SUFFIXES):
        short = next((other for other in names if _last(other) == short), short)
    if short not in names:
        return None
    copy = Path(folder, f"{short}.yaml")
    return copy if copy.is_file() else names[short]


def _short(name: str, folder: str) -> str:
    """Return a path without the packaged folder in front and without the ending."""
    path = PurePosixPath(name)
    bare = path.with_suffix("") if path.suffix in SUFFIXES else path
    return str(bare.relative_to(folder) if bare.is_relative_to(folder) else bare)


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def no_config(name: str) -> str:
    """Return what there is to say about a name that :func:`find_config` does not find."""
    return _nothing(name, CONFIGS, "config", config_names())


def no_study(name: str) -> str:
    """Return what there is to say about a name that :func:`find_study` does not find."""
    return _nothing(name, STUDIES, "study", study_names())


def _nothing(name: str, folder: str, kind: str, names: Mapping[str, Path]) -> str:
    see = f"plasticity-rl list {PurePosixPath(folder).name}"
    if os.path.isdir(name):
        return f"this is a folder; give a file in it, or a packaged {kind}: {see}"
    similar = difflib.get_close_matches
    beside = {path.stem: str(path) for path in sorted(Path(name).parent.glob("*.y*ml"))}
    ends = {_last(other): other for other in reversed(list(names))}  # of two with the same, the first one
    short = _short(name, folder)
    packaged = similar(short, names) or [ends[end] for end in similar(_last(short), ends)]
    near = [*(beside[stem] for stem in similar(Path(name).stem, beside)), *packaged][:3]
    hint = f" Did you mean {', '.join(near)}?" if near else ""
    return f"no such file, and no packaged {kind} of that name.{hint} See {see}"


def with_found_configs(args: Sequence[str]) -> list[str]:
    """Return a command line in which every ``--config`` names a file that exists.

    Text that holds options itself, ``--config '{max_frames: 1000}'``, stays as it is.

    Raises:
        UserError: When there is no such file; with the nearest names.
    """
    found = []
    rest = iter(args)
    for arg in rest:
        name, equals, value = arg.partition("=")
        if name not in CONFIG and arg.startswith("-c"):  # -cFILE
            name, equals, value = "-c", "=", arg[2:]
        if name not in CONFIG:
            found.append(arg)
            continue
        following = [value] if equals else list(itertools.islice(rest, 1))
        if not equals and (not following or following[0].startswith("-")):
            found += [name, *following]  # the parser says that the name is missing
            continue
        found.append(f"--config={following[0] if _is_text(following[0]) else _found(following[0])}")
    return found


def without_pipes(args: Sequence[str]) -> list[str]:
    """Return a command line with what its pipes hold (``-c <(cat x.yaml)``, ``-c /dev/stdin``) in place of their names.

    A pipe can be read once, and a config is read more than once: by the parser too, and by each rank of a run.

    Raises:
        UserError: When a pipe holds nothing, or no text.
    """
    args = list(args)
    for i, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name not in CONFIG or not (equals or args[i + 1 :]):
            continue
        given = value if equals else args[i + 1]
        if not _is_pipe(given):
            continue
        try:
            with open(given, encoding="utf-8") as pipe:
                text = pipe.read(LONGEST_PIPE)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--config {given} cannot be read: {' '.join(str(error).split())}") from error
        if not text.strip():
            raise UserError(f"--config {given} must hold options (data:, model:, trainer:, ...), but holds nothing")
        args[i if equals else i + 1] = f"{name}=" * bool(equals) + text.rstrip("\n") + "\n"
    return args


def _is_pipe(name: str) -> bool:
    try:
        mode = os.stat(name).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)


def _found(name: str) -> Path:
    path = find_config(name)
    if path is None:
        raise UserError(f"--config {name}: {no_config(name)}")
    return path


def _is_text(value: str) -> bool:
    return value.lstrip().startswith("{") or ": " in value or "\n" in value
