"""Folders with Python files of a user's own, beside a config say: put on Python's path behind all that is installed.

``python file.py`` puts the folder of the file in front of everything; there a ``random.py`` or a ``callbacks/`` beside
a config would take the place of the standard library's, or of ours. Behind what is installed it cannot. Light.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from plasticity_rl.errors import suggestion

VARIABLE = "PLASTICITY_RL_PATH"
"""Environment variable with more such folders, separated as in PATH: a study gives its runs the folder of its file."""
_LATEST: list[str] = []
_ASKED: list[str] = []


def module_file(folder: str, name: str) -> str | None:
    """Return the file that makes a module of one name in a folder, or None."""
    places = (os.path.join(folder, f"{name}.py"), os.path.join(folder, name, "__init__.py"))
    return next((place for place in places if os.path.isfile(place)), None)


def holds_module(folder: str, name: str) -> bool:
    """Return whether a folder has a module of that name; a folder without ``__init__.py`` is one too."""
    return module_file(folder, name) is not None or any(Path(folder, name).glob("*.py"))


def folder_of(file: str) -> str:
    """Return the folder that ``python FILE`` would put on the path."""
    return os.path.dirname(os.path.realpath(file))


def folders_in_variable() -> list[str]:
    """Return the folders that the environment variable names."""
    return [os.path.abspath(folder) for folder in os.environ.get(VARIABLE, "").split(os.pathsep) if folder]


def as_variable(folders: Iterable[str]) -> dict[str, str]:
    """Return the environment variable for a process that shall find files in these folders too; none for none."""
    found = list(dict.fromkeys([*folders, *folders_in_variable()]))
    return {VARIABLE: os.pathsep.join(found)} if found else {}


def put_on_path(folders: Iterable[str], asked: Iterable[str] = ()) -> None:
    """Append the folders to Python's path, those that are not there yet; ``asked`` are those that could have been."""
    _LATEST[:], _ASKED[:] = dict.fromkeys(folders), dict.fromkeys(asked)
    there = {os.path.abspath(entry) for entry in sys.path}  # "" is the current one
    sys.path.extend(folder for folder in _LATEST if folder not in there)
    importlib.invalidate_caches()


def latest() -> list[str]:
    """Return the folders of the last :func:`put_on_path`, for whoever notes what a start was made of."""
    return list(_LATEST)


def where_they_are_looked_for(path: str) -> str:
    """Return what to say of a dotted path whose module nobody finds, with the names that are near it."""
    top = path.partition(".")[0]
    there = [file.stem for folder in _ASKED for file in Path(folder).glob("*.py")]
    return (
        f" A file {top}.py of your own is found beside a --config file that you name, in the current folder, and in "
        f"the folders of {VARIABLE}.{suggestion(top, there)}"
    )


def found_in(name: str) -> Path | None:
    """Return the file of a top-level module as Python would find it, without importing it; None where there is none."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None:
        return None
    return Path(spec.origin) if spec.origin not in (None, "namespace") else None
