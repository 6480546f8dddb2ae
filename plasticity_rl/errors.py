"""The one exception that means "your input is wrong", shown as a single line with exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input from the user: names the option, the value received, what is allowed and how to fix it.

    The command line prints only its message, without a traceback, and exits with code 2.
    """


def suggestion(name: str, choices: Iterable[str]) -> str:
    """Return ``" Did you mean a, b?"`` for the nearest of ``choices``, or an empty string when none is near."""
    near = difflib.get_close_matches(name, list(choices), n=3, cutoff=0.5)
    return f" Did you mean {', '.join(near)}?" if near else ""
