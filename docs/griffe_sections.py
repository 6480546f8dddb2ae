"""The sections that only docstrings of callbacks have (``Mutates:``, ``Logs:`` ...), as paragraphs of the reference.

Google's style knows nothing of them, so they would be taken for notes with their first line as title.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

OURS = re.compile(r"^(Mutates|Logs|Reference|Differences from the original|Budget): +(.*(?:\n +\S.*)*)", re.MULTILINE)


class Sections(griffe.Extension):
    """Rewrites docstrings as they are read."""

    def on_instance(self, *, obj: Any, **kwargs: Any) -> None:
        """Begin each section with its name in bold, as a paragraph."""
        if obj.docstring is not None and OURS.search(obj.docstring.value):
            obj.docstring.value = OURS.sub(_paragraph, obj.docstring.value)


def _paragraph(match: re.Match[str]) -> str:
    return f"\n**{match[1]}.** {' '.join(match[2].split())}\n"
