"""What there is to run, by name, each with a sentence: read from files as text, so that nothing heavy is imported.

Every sentence stands where the thing itself does: in the comment at the top of a YAML file, or in a docstring.
"""

from __future__ import annotations

import ast
import importlib.resources
import re
from collections.abc import Mapping
from pathlib import Path

from plasticity_rl.envs.backends import all_options_classes
from plasticity_rl.files import comments
from plasticity_rl.packaged import config_names, study_names

SENTENCE = re.compile(r"(.+?[.?!])(?=\s+[A-Z]|\s{2,}|\s*$)", re.DOTALL)
"""A text up to the end of its first sentence: ``et al. 2024`` and ``Fig. 2`` do not end one."""


def configs() -> dict[str, str]:
    """Return what ``--config NAME`` finds in the package."""
    return _commented(config_names())


def studies() -> dict[str, str]:
    """Return what ``study run NAME`` finds in the package, with what each claims."""
    return _commented(study_names())


def callbacks() -> dict[str, str]:
    """Return all callbacks by the name that they have in YAML, interventions first, with what they do."""
    package = Path(str(importlib.resources.files("plasticity_rl"))).parent / "callbacks"
    found: dict[str, str] = {}
    for node in ast.parse((package / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            file = package.parent.joinpath(*node.module.split(".")).with_suffix(".py")
            docstrings = _docstrings(ast.parse(file.read_text(encoding="utf-8")))
            found |= {f"callbacks.{alias.name}": first_sentence(docstrings[alias.name]) for alias in node.names}
    return found


def tasks() -> dict[str, str]:
    """Return the tasks of every backend, as ``data.task`` names them.

    Raises:
        UserError: When the simulator of a backend is not installed.
    """
    described = [options.task_descriptions().items() for options in all_options_classes()]
    found = {name: first_sentence(text) for items in described for name, text in items}
    published = {name.removeprefix("task/") for name in config_names() if name.startswith("task/")}
    return {
        name: f"{found[name]} DrQ-v2's settings: --config task/{name}" if name in published else found[name]
        for name in sorted(found)
    }


def _docstrings(module: ast.Module) -> dict[str, str]:
    return {node.name: ast.get_docstring(node) or "" for node in module.body if isinstance(node, ast.ClassDef)}


def _commented(files: Mapping[str, Path]) -> dict[str, str]:
    return {name: first_sentence(leading_comment(path)) for name, path in files.items()}


def leading_comment(path: Path) -> str:
    """Return the comment that a YAML file begins with, without its marks and without ``Claim:``."""
    text = comments.leading_comment(path.read_text(encoding="utf-8"))
    claim = text.removeprefix("Claim: ")
    return text if claim == text else claim[:1].upper() + claim[1:]


def first_sentence(text: str) -> str:
    """Return the first sentence of a text, in one line; all of it where no sentence ends."""
    match = SENTENCE.match(text)
    return " ".join((match[1] if match else text).replace("``", "").split())
