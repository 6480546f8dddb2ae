"""The exceptions that are shown as a single line: wrong input, and a run that cannot go on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input from the user: names the option, the value received, what is allowed and how to fix it.

    The command line prints only its message, without a traceback, and exits with code 2.
    """


class RunFailure(RuntimeError):
    """A run cannot go on through no fault of its options: a full disk, a dead simulator, a loss that is not a number.

    Says what failed, where, and which checkpoint is the last good one. The command line prints only its message and
    exits with code 1; the traceback is in ``error.txt`` in the run folder.
    """


def describe_error(error: BaseException) -> str:
    """Return the kind of an error and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def suggestion(name: str, choices: Iterable[str]) -> str:
    """Return ``" Did you mean a, b?"`` for the nearest of ``choices``, or an empty string when none is near."""
    near = difflib.get_close_matches(name, list(choices), n=3, cutoff=0.5)
    return f" Did you mean {', '.join(near)}?" if near else ""
