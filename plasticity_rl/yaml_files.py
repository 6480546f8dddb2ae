"""Read YAML that may be of somebody else: nothing in it is built, repeated without end, or silently lost. Light."""

from __future__ import annotations

from typing import Any

import yaml

MOST = 100_000
"""Values in a file, each counted as often as aliases repeat it; more is no configuration and no study."""


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
