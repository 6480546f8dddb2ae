"""What a callback's docstring declares: the one place where its tags, what it mutates and its sources are written."""

from __future__ import annotations

import re

from plasticity_rl.files.docstrings import sections

TAG = re.compile(r"``([^`\s]+/[^`\s]+)``")


def documented_tags(callback: type) -> tuple[str, ...]:
    """Return the tags that ``Logs:`` of a callback's docstring names; ``<...>`` stands for what differs.

    The tables of the documentation, and the tests that compare it with what is written, read this.

    Raises:
        ValueError: When the docstring has no ``Logs:``.
    """
    found = sections(callback.__doc__ or "")
    if "Logs" not in found:
        raise ValueError(f"{callback.__name__}: its docstring has no `Logs:`, which names every tag that it writes")
    return tuple(dict.fromkeys(TAG.findall(found["Logs"])))


def tag_pattern(tag: str) -> re.Pattern[str]:
    """Return what matches the written forms of a documented tag: ``<...>`` stands for any part of one segment.

    ``/...`` at the end stands for one segment or more. What stands there is the group of that name, and ``rest``.
    """
    parts = re.split(r"(<[^>]+>|/\.\.\.$)", tag)
    return re.compile("".join(_part(part, first=part not in parts[:place]) for place, part in enumerate(parts)))


def _part(part: str, *, first: bool) -> str:
    if part[:1] == "<":
        return f"(?P{part}[^/]+)" if first and part[1:-1].isidentifier() else "[^/]+"
    return "(?P<rest>/.+)" if part == "/..." else re.escape(part)
