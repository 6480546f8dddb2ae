"""Tags that a user names, with ``*`` for any text, among those that runs have."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from plasticity_rl.errors import UserError
from plasticity_rl.results.runs import Run

MOST_PANELS = 24
"""Panels of one task at most: more cannot be read, and are a mistake in a pattern."""
NEAREST = 5


def matching_tags(wanted: Sequence[str], runs: Iterable[Run]) -> list[str]:
    """Return the tags that are meant, each once, in the order of ``wanted``, those of a pattern in that of logging.

    Raises:
        UserError: When no run has one, or there are too many.
    """
    known = list(dict.fromkeys(tag for run in runs for tag, curve in run.curves.items() if len(curve.frames)))
    found: list[str] = []
    for one in wanted:
        pattern = re.compile(".*".join(map(re.escape, one.split("*"))))
        fitting = [tag for tag in known if pattern.fullmatch(tag)]
        if not fitting:
            raise UserError(f"--tags {one}: no run has it; {_nearest(one, known)}")
        found += fitting
    found = list(dict.fromkeys(found))
    if len(found) > MOST_PANELS:
        raise UserError(
            f"--tags {' '.join(wanted)}: {len(found)} tags ({', '.join(found[:3])}, ...) are more panels than the "
            f"{MOST_PANELS} that can be read; name fewer"
        )
    return found


def _nearest(one: str, known: Sequence[str]) -> str:
    """Say which tags are like it: in spelling, or in one of their parts."""
    alike = difflib.get_close_matches(one, known, NEAREST, cutoff=0.5)
    alike += [tag for tag in known if set(tag.split("/")) & set(one.split("/")) and tag not in alike]
    if not alike:
        groups = dict.fromkeys(f"{tag.partition('/')[0]}/*" if "/" in tag else tag for tag in known)
        return f"they have {', '.join(groups)}"
    return f"the nearest they have: {', '.join(alike[:NEAREST])}"
