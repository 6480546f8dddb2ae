"""Reads one config file of a command, and refuses what is broken in it, before there is a parser. Light."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from plasticity_rl.errors import UserError
from plasticity_rl.files.strict_yaml import load
from plasticity_rl.former_names import todays_name

DEEPEST = 50
"""Levels of a config file; no option lies nearly as deep."""
SECTIONS = ("data", "model", "trainer")
"""Options of a config file that hold further options."""


def read_config(path: Path) -> Mapping[str, Any]:
    """Return the options that a config file holds.

    Raises:
        UserError: When it is broken or holds no options; with the line, where there is one.
    """
    try:
        content = load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).replace('in "<unicode string>", ', "").split())
        fix = "; indent with spaces, not with tabs" if r"'\t'" in reason else ""
        raise UserError(f"{path} is not valid YAML: {reason}{fix}") from error
    except RecursionError as error:
        raise UserError(f"{path} is not valid YAML: it is nested too deeply, or an alias holds itself") from error
    if not isinstance(content, dict):
        held = "nothing" if content is None else f"a {type(content).__name__}"
        raise UserError(f"{path} must hold options (data:, model:, trainer:, ...), but holds {held}")
    _check_keys(content, path, {})
    for name in SECTIONS:
        if not isinstance(content.get(name, {}), dict):
            raise UserError(f"{path}: {name}: must hold options, {name}: {{name: value}}, but holds {content[name]!r}")
    return content


def _check_keys(section: dict[Any, Any], path: Path, seen: dict[str, None], place: str = "") -> None:
    """Raise UserError where a config file has no word for the name of an option, holds itself, or says one twice.

    ``model.lr: 1`` and ``model: {lr: 2}`` are one option, of which the parser would keep the last.
    """
    if place.count(".") > DEEPEST:
        raise UserError(f"{path} is not valid YAML: it is nested too deeply, or an alias holds itself")
    for key, value in section.items():
        if not isinstance(key, str):
            raise UserError(
                f"{path}: {place}{key}: the name of an option must be a word, but this is a {type(key).__name__}; "
                "remove it, or put it in quotes"
            )
        if isinstance(value, dict):
            _check_keys(value, path, seen, f"{place}{key}.")
        elif f"{place}{key}" in seen:
            raise UserError(f"{path}: {place}{key} is given twice, once with the name in parts; remove one")
        else:
            seen[f"{place}{key}"] = None


def with_text_keys(value: Any) -> Any:
    """Return options whose keys ``on`` and ``off``, which YAML 1.1 reads as true and false, are names.

    Classes that moved since a file was written have the name of today.
    """
    if isinstance(value, list):
        return [with_text_keys(item) for item in value]
    if isinstance(value, dict):
        names = {True: "on", False: "off"}
        return {names[key] if isinstance(key, bool) else key: with_text_keys(item) for key, item in value.items()}
    return todays_name(value) if isinstance(value, str) else value
