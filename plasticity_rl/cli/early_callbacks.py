"""Refuses callbacks that there are not, and arguments that one does not take, from their source. Light."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plasticity_rl.cli.declared import source
from plasticity_rl.cli.declared.checks import check
from plasticity_rl.cli.declared.command import agents
from plasticity_rl.cli.declared.options import constructor
from plasticity_rl.cli.declared.parts import parts
from plasticity_rl.cli.declared.types import made, misfit
from plasticity_rl.cli.given import CALLBACKS, Given, GivenCallback, callbacks
from plasticity_rl.cli.parser_errors import near_classes, one_line
from plasticity_rl.cli.trust import DOTTED, PACKAGES
from plasticity_rl.errors import UserError, suggestion
from plasticity_rl.run.number_checks import refuse_extreme_numbers

OURS = "callbacks"
OF_MODULES = ("module", "modules")
"""Arguments of our callbacks that name modules of the agent."""
OF_TASKS = "tasks"
"""Argument that names tasks."""
BASE = "RLCallback"
"""Class whose ``build`` does nothing."""


def refuse_wrong_callbacks(values: Sequence[Given], folders: Sequence[Path]) -> list[GivenCallback]:
    """Raise UserError for the first callback that is wrong by itself; return those that remain in the end.

    Args:
        values: All that the command gives.
        folders: Where a class of the user's own may lie, besides the places that Python looks in.
    """
    every, last = callbacks(values)
    for one in every:
        if one.class_path is not None:
            refuse_unknown_class(one.class_path, folders, [other.class_path for other in every])
            _refuse_arguments(one)
    return last


def refuse_values(last: Sequence[GivenCallback], agent: str) -> None:
    """Raise UserError for what the constructors refuse, and for modules that no agent of this name has.

    Args:
        last: The callbacks that remain in the end.
        agent: Name of the agent.
    """
    as_made = not any(_may_rebuild(one.class_path) for one in last)
    for one in last:
        options = None if one.class_path is None else constructor(one.class_path)
        if options is None or one.class_path is None or not one.whole:
            continue
        name = one.class_path.rpartition(".")[2]
        missing = [known for known, option in options.items() if option.required and known not in one.arguments]
        if missing:
            raise UserError(f"{CALLBACKS}: {name}: the following arguments are required: {', '.join(missing)}")
        values = {known: made(options[known], value) for known, value in one.arguments.items()}
        refuse_extreme_numbers({"class_path": one.class_path, "init_args": values})
        try:
            check(one.class_path, values)
        except UserError as error:
            raise UserError(f"{CALLBACKS}: {error}") from error
        if one.class_path.startswith(f"{OURS}."):
            for known in OF_MODULES:
                _refuse_unknown_modules(values.get(known), agent, as_made)


def tasks_of(last: Sequence[GivenCallback]) -> list[str]:
    """Return the tasks that callbacks of ours name."""
    ours = [one for one in last if one.whole and (one.class_path or "").startswith(f"{OURS}.")]
    given = [one.arguments.get(OF_TASKS) for one in ours]
    return [task for tasks in given if isinstance(tasks, list) for task in tasks if isinstance(task, str)]


def refuse_unknown_class(path: str, folders: Sequence[Path], others: Sequence[str | None] = ()) -> None:
    """Raise UserError for a class path under which there is surely no callback.

    Args:
        path: What was given.
        folders: Where a class of the user's own may lie.
        others: All that is given: a class of the user's own may import what then goes by its bare name.
    """
    if DOTTED.fullmatch(path) is None:
        if path.isidentifier() and all(_is_packaged(other) for other in others) and not _is_class(path):
            raise UserError(
                f"{CALLBACKS}: no class {path!r}; write its path, package.Name.{near_classes(CALLBACKS, path)}"
            )
        return
    top, _, _ = path.partition(".")
    holder, _, name = path.rpartition(".")
    if not _can_be_found(top, folders):
        raise _no_class(path, f"No module named {top!r}")
    if top in PACKAGES and not source.has_name(path):
        raise _no_class(path, f"module {holder!r} has no attribute {name!r}")


def _no_class(path: str, reason: str) -> UserError:
    return UserError(f"{CALLBACKS}: no class {path!r} ({reason}).{near_classes(CALLBACKS, path)}")


def _is_packaged(path: str | None) -> bool:
    return path is not None and ("." not in path or path.partition(".")[0] in PACKAGES)


def _is_class(name: str) -> bool:
    """Return whether a class of this name stands anywhere in ours or among Lightning's callbacks."""
    folders = []
    for package in (OURS, "plasticity_rl", "lightning"):
        holder = source.module(package)
        folders += (
            [] if holder is None else [holder.path.parent / ("pytorch/callbacks" if package == "lightning" else "")]
        )
    files = [file for folder in folders for file in folder.rglob("*.py")]
    return any(f"class {name}" in file.read_text(encoding="utf-8", errors="replace") for file in files)


def _can_be_found(top: str, folders: Sequence[Path]) -> bool:
    try:
        if importlib.util.find_spec(top) is not None:
            return True
    except (ImportError, ValueError):
        return True
    return any(os.path.exists(folder / name) for folder in folders for name in (top, f"{top}.py"))


def _refuse_arguments(one: GivenCallback) -> None:
    """Raise UserError for arguments that a class does not have, and values that cannot be of their type."""
    assert one.class_path is not None
    options = constructor(one.class_path)
    if options is None:
        return
    name = one.class_path.rpartition(".")[2]
    for known, value in one.arguments.items():
        if known in ("help", "dict_kwargs"):
            continue
        if known not in options:
            line = one_line(f"Option '{known}' is not accepted", {f"--{option}" for option in options})
            raise UserError(f"{CALLBACKS}: {name}: {line}")
        if (reason := misfit(options[known], value)) is not None:
            raise UserError(f"{CALLBACKS}: {name}: {known}: {reason}")


def _may_rebuild(class_path: str | None) -> bool:
    """Return whether a callback may give modules of the agent other parts than their classes have."""
    if class_path is None or class_path.partition(".")[0] not in PACKAGES:
        return True
    line = source.bases(class_path)
    ours = [cls for cls in line if cls is not None and cls.module.name.partition(".")[0] in (OURS, "plasticity_rl")]
    return any(cls.method("build") is not None and cls.name != BASE for cls in ours)


def _refuse_unknown_modules(given: Any, agent: str, as_made: bool) -> None:
    """Raise UserError for modules that no agent of this name has.

    Args:
        given: A name, or several.
        agent: Name of the agent.
        as_made: Whether no callback gives its modules other parts.
    """
    path = agents()[agent]
    names = source.class_texts(path, "module_names")
    for module in [given] if isinstance(given, str) else given if isinstance(given, list) else []:
        if not names or not isinstance(module, str):
            continue
        top, _, below = module.partition(".")
        if top not in names:
            near = suggestion(module, names)
            raise UserError(
                f"no module {module!r} in {path.rpartition('.')[2]}; there are {names} and their parts.{near}"
            )
        known = parts(path, top) if below and as_made else {}
        if known and below.partition(".")[0] not in known:
            there_are = [top, *(f"{top}.{name}" for name, made in known.items() if made)]
            near = suggestion(module, there_are)
            raise UserError(f"no module {module!r} in {path.rpartition('.')[2]}; there are {there_are}.{near}")
