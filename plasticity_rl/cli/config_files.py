"""Reads one config file of a command, and refuses what is broken in it, before there is a parser. Light."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from plasticity_rl.errors import UserError

DEEPEST = 50
"""Levels of a config file; no option lies nearly as deep."""
MOST = 100_000
"""Values in a config file, each counted as often as aliases repeat it; more is no list of options."""
SECTIONS = ("data", "model", "trainer")
"""Options of a config file that hold further options."""


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML would keep the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:str" and key.value in seen:
                raise yaml.YAMLError(f"{key.value!r} twice in one section, {_place(key.start_mark)}; remove one")
            seen.add(key.value if isinstance(key.value, str) else id(key))
        return super().construct_mapping(node, deep)


def _place(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"


def load(text: str) -> Any:
    """Return what a text in YAML holds, without keys that are given twice and without expanding aliases in vain.

    Raises:
        yaml.YAMLError: When it is not valid, or its aliases repeat each other without end: nine lines can stand for
            more values than any memory holds.
        RecursionError: When it is nested too deeply.
    """
    loader = _StrictLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > MOST:
            raise yaml.YAMLError(f"its aliases (*name) stand for more than {MOST:,} values; write out what is meant")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many values there are below a node; one that holds itself counts once."""
    if id(node) not in known:
        known[id(node)] = 0
        below = node.value if isinstance(node, yaml.SequenceNode | yaml.MappingNode) else []
        values = [value for _, value in below] if isinstance(node, yaml.MappingNode) else below
        known[id(node)] = 1 + sum(_size(value, known) for value in values)
    return known[id(node)]


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
    _check_keys(content, path)
    for name in SECTIONS:
        if not isinstance(content.get(name, {}), dict):
            raise UserError(f"{path}: {name}: must hold options, {name}: {{name: value}}, but holds {content[name]!r}")
    return content


def _check_keys(section: dict[Any, Any], path: Path, place: str = "") -> None:
    """Raise UserError where a config file has no word for the name of an option, or holds itself."""
    if place.count(".") > DEEPEST:
        raise UserError(f"{path} is not valid YAML: it is nested too deeply, or an alias holds itself")
    for key, value in section.items():
        if not isinstance(key, str):
            raise UserError(
                f"{path}: {place}{key}: the name of an option must be a word, but this is a {type(key).__name__}; "
                "remove it, or put it in quotes"
            )
        if isinstance(value, dict):
            _check_keys(value, path, f"{place}{key}.")
