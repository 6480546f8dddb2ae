"""The comment that a file of YAML begins with: what it is for, in words. Light."""

from __future__ import annotations


def leading_comment(text: str) -> str:
    """Return the comment that a text in YAML begins with, without its marks."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line[1:].removeprefix(" "))
    return "\n".join(lines)
