"""YAML that somebody wrote by hand: a key that is given twice is refused, and aliases without end. Light."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import yaml


class TwiceError(yaml.YAMLError):
    """A key is given twice, of which YAML would keep the last without a word."""


MOST = 100_000
"""Values in a file, each counted as often as aliases repeat it; more is no list of options."""
MERGE = "tag:yaml.org,2002:merge"


def load(text: str) -> Any:
    """Return what a text in YAML holds, without keys that are given twice and without expanding aliases in vain.

    Raises:
        TwiceError: When a key is given twice.
        yaml.YAMLError: When it is not valid, or its aliases repeat each other without end: nine lines can stand for
            more values than any memory holds.
        RecursionError: When it is nested too deeply.
    """
    try:
        return _loaded(_FastLoader(text))
    except TwiceError:
        raise
    except yaml.YAMLError:  # that of the other one shows the line
        return _loaded(_StrictLoader(text))


def _loaded(loader: Any) -> Any:
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > MOST:
            raise yaml.YAMLError(f"its aliases (*name) stand for more than {MOST:,} values; write out what is meant")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def with_texts(content: Any, change: Callable[[str], str]) -> Any:
    """Return a content with ``change`` applied to every text in it that is no key."""
    if isinstance(content, Mapping):
        return {key: with_texts(one, change) for key, one in content.items()}
    if isinstance(content, list):
        return [with_texts(one, change) for one in content]
    return change(content) if isinstance(content, str) else content


class _OneOfEachKey(yaml.constructor.SafeConstructor):
    """Refuses a key that is given twice, however it is spelled: ``on`` and ``true`` are one key."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        lines: dict[Any, yaml.Node] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
                continue
            value = self.construct_object(key)
            first = lines.setdefault((type(value), value), key)
            if first is not key:
                other = f" as {first.value!r}" if first.value != key.value else ""
                raise TwiceError(
                    f"{key.value!r} twice in one section, {_place(key)} and before{other} in line "
                    f"{first.start_mark.line + 1}; remove one"
                )
        return super().construct_mapping(node, deep)


class _StrictLoader(_OneOfEachKey, yaml.SafeLoader):
    """In Python."""


class _FastLoader(_OneOfEachKey, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """By libyaml, where PyYAML has it: a seventh of the time."""


def _place(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}, column {node.start_mark.column + 1}"


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many values there are below a node; one that holds itself counts once."""
    if id(node) not in known:
        known[id(node)] = 0
        below = node.value if isinstance(node, yaml.SequenceNode | yaml.MappingNode) else []
        values = [value for _, value in below] if isinstance(node, yaml.MappingNode) else below
        known[id(node)] = 1 + sum(_size(value, known) for value in values)
    return known[id(node)]
