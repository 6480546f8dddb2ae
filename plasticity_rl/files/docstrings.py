"""The named parts of a docstring: ``Mutates:``, ``Logs:``, ``Args:`` ... Light."""

from __future__ import annotations

import inspect
import re

SECTION = re.compile(
    r"^(Mutates|Logs|Reference|Differences from the original|Budget|Args|Raises|Attributes):", re.MULTILINE
)


def sections(docstring: str) -> dict[str, str]:
    """Return the named parts of a docstring, and under ``""`` what stands before the first."""
    start, *rest = SECTION.split(inspect.cleandoc(docstring))
    return {"": start.strip(), **{name: text.strip() for name, text in zip(rest[::2], rest[1::2], strict=True)}}
