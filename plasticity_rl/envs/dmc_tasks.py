"""The tasks of dm_control with what it says of them, from its source: to import it needs seconds and a renderer."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from plasticity_rl.errors import UserError


def described_tasks() -> dict[str, str]:
    """Return the tasks of the suite and the manipulation tasks by the name that ``make_env`` takes.

    Raises:
        UserError: When dm_control is not installed.
    """
    spec = importlib.util.find_spec("dm_control")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the tasks are those of dm_control, which is not installed; see plasticity-rl doctor")
    package = Path(spec.submodule_search_locations[0])
    return dict([*_suite_tasks(package / "suite"), *_manipulation_tasks(package / "manipulation")])


def _suite_tasks(folder: Path) -> Iterator[tuple[str, str]]:
    for file in sorted(folder.glob("*.py")):
        domain = "cup" if file.stem == "ball_in_cup" else file.stem
        for function in _registered(file, "SUITE"):
            text = (ast.get_docstring(function) or "").removeprefix("Returns ").replace(" .", ".")
            yield f"{domain}_{function.name}", f"{domain}: {text}"


def _manipulation_tasks(folder: Path) -> Iterator[tuple[str, str]]:
    for file in sorted(folder.glob("*.py")):
        for function in _registered(file, "registry"):
            name = function.name.removesuffix("_vision")
            if name != function.name:
                yield name, f"manipulation with a robot arm: {name.replace('_', ' ')}."


def _registered(file: Path, registry: str) -> Iterator[ast.FunctionDef]:
    """Yield the functions that a file gives to ``@<registry>.add(...)``."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            added = [ast.unparse(decorator).startswith(f"{registry}.add(") for decorator in node.decorator_list]
            if any(added):
                yield node
