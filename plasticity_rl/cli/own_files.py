"""Which folders with files of the user's own a command looks into, and what of theirs would not be found. Light.

Those are the folders of the config files that the user names, the folders in ``PLASTICITY_RL_PATH``, and the current
one; each only where it holds a module that the command names. Of a run's own config that is so with ``--trust`` alone
(:mod:`plasticity_rl.cli.trust`), and then for the folders too that the run noted when it started.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from plasticity_rl.cli import trust
from plasticity_rl.cli.early import CommandLine
from plasticity_rl.errors import UserError
from plasticity_rl.files import own_files
from plasticity_rl.files.strict_yaml import load

NOTED = "own_files"
"""Entry of a start in ``starts.yaml``: the folders in which files of the user's own were found."""
OF_A_TASK = re.compile(r"\b(?:gym|torchrl):([^\W\d]\w*)(?=[.:])")
"""The module that the name of a task imports: ``gym:my_envs:Line-v0``, ``torchrl:my_envs.Line``."""
CALLBACKS = "callbacks"


def find_own(command: CommandLine) -> None:
    """Put the folders on Python's path in which the command finds files of the user's own."""
    own_files.put_on_path(folders_of(command), candidates(command))


def folders_of(command: CommandLine) -> list[str]:
    """Return the folders in which the command finds files of the user's own, in the order in which they are asked."""
    names = _names(command)
    return [folder for folder in candidates(command) if any(own_files.holds_module(folder, name) for name in names)]


def _texts(command: CommandLine) -> list[str]:
    return [*command.own_texts(), *(repr(command.contents[given]) for given in command.foreign if command.trusts)]


def _names(command: CommandLine) -> list[str]:
    """Return the top-level modules that are named, without those that a configuration always means as installed."""
    return [name for name in names_in(_texts(command)) if name not in trust.PACKAGES]


def names_in(texts: Iterable[str]) -> list[str]:
    """Return the top-level modules of all dotted names in texts, each once."""
    found: dict[str, None] = {}
    for text in texts:
        dotted = (match[0] for match in trust.DOTTED.finditer(text))
        found |= dict.fromkeys(name.partition(".")[0] for name in dotted if not trust.FILE.fullmatch(name))
        found |= dict.fromkeys(OF_A_TASK.findall(text))
    return list(found)


def candidates(command: CommandLine) -> list[str]:
    """Return the folders that may hold files of the user's own, in the order in which they are asked."""
    given = [name for name in command.contents if os.path.isfile(name)]
    own = [own_files.folder_of(name) for name in given if name not in command.foreign]
    runs = [own_files.folder_of(name) for name in given if name in command.foreign and command.trusts]
    noted = [folder for run in runs for folder in _noted(Path(run))]
    return list(dict.fromkeys([*own, *own_files.folders_in_variable(), *noted, *runs, os.getcwd()]))


def _noted(run_dir: Path) -> list[str]:
    """Return the folders that the starts of a run noted, the newest start first; none where nothing can be read."""
    try:
        starts = load((run_dir / "starts.yaml").read_text(encoding="utf-8"))
        found = [start.get(NOTED) or [] for start in reversed(starts)]
        return [folder for folders in found for folder in folders if isinstance(folder, str)]
    except Exception:  # whatever a file of somebody else holds
        return []


def in_study(files: Iterable[Path], texts: Sequence[str]) -> list[str]:
    """Return the folders of a study's files in which its runs find what texts of it name.

    Raises:
        UserError: When Python has one of these modules from elsewhere.
    """
    folders = list(dict.fromkeys(own_files.folder_of(str(file)) for file in files))
    refuse_hidden_in(texts, [*folders, os.getcwd()])
    names = [name for name in names_in(texts) if name not in trust.PACKAGES]
    return [folder for folder in folders if any(own_files.holds_module(folder, name) for name in names)]


# ---- what would not be found -----------------------------------------------------------------------------------------


def refuse_hidden_framework() -> None:
    """Raise UserError when ``callbacks`` is not the package that came with this one: nothing would work as documented.

    Python then finds a file of the user's first: in a folder of PYTHONPATH, or beside the program that was started.
    """
    ours = Path(__file__).resolve().parents[2] / CALLBACKS / "__init__.py"
    found = own_files.found_in(CALLBACKS)
    if found is not None and ours.is_file() and found.resolve() != ours:
        raise UserError(
            f"{found} hides {ours}: Python looks there first (PYTHONPATH, or the folder of the program), so that no "
            "callback of the framework would be found; rename yours"
        )


def refuse_hidden(command: CommandLine) -> None:
    """Raise UserError for a module of the user's own that the command names, but that Python has from elsewhere."""
    refuse_hidden_in(_texts(command), candidates(command))


def refuse_hidden_in(texts: Sequence[str], folders: Sequence[str]) -> None:
    """Raise UserError for the first name that a module in one of the folders has, and Python from elsewhere."""
    for name in [CALLBACKS, *(name for name in names_in(texts) if name not in trust.PACKAGES)]:
        theirs = next(filter(None, (own_files.module_file(folder, name) for folder in folders)), None)
        if theirs is None or (name == CALLBACKS and not list(_not_ours(texts))):
            continue
        if (found := _elsewhere(name, theirs, folders)) is not None:
            what = next(_not_ours(texts)) if name == CALLBACKS else name
            raise UserError(
                f"{what} is looked for in {found}, which has the name {name} before your {theirs}: files of your own "
                "come after what is installed, so that they hide none of it; rename yours"
            )


def _elsewhere(name: str, theirs: str, candidates: Iterable[str]) -> str | None:
    """Return what Python finds by a name in place of the user's file, unless the user put that on the path too."""
    found = own_files.found_in(name)
    if name in sys.stdlib_module_names and (found is None or not found.is_file()):
        return "Python's own library"  # of modules that are built in
    if found is None or not found.is_file() or os.path.samefile(found, theirs):
        return None
    chosen = [*candidates, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    top = found.parent.parent if found.name == "__init__.py" else found.parent
    if name != CALLBACKS and any(os.path.realpath(folder) == os.path.realpath(top) for folder in chosen):
        return None
    return str(found)


def _not_ours(texts: Iterable[str]) -> Iterator[str]:
    """Yield the callbacks that are named as if they were ours."""
    from plasticity_rl.cli.catalogue import callbacks

    known = callbacks()
    for text in texts:
        for match in trust.DOTTED.finditer(text):
            parts = match[0].split(".")
            if parts[0] == CALLBACKS and len(parts) == 2 and parts[1][0].isupper() and match[0] not in known:
                yield match[0]
