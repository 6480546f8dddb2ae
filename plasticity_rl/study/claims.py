"""What a study claims, and by which verdicts it is confirmed or contradicted: the comment its file begins with.

It is written for people before anyone looks at a result, so nothing computes with it: a report shows it beside the
verdicts.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from plasticity_rl.files.comments import leading_comment

WORDS = {
    "claim": "Claim",
    "source": "Source",
    "confirmed": "Confirmed if",
    "contradicted": "Contradicted if",
    "note": "Note",
}
"""Entry -> the words that a paragraph of the comment begins with, followed by a colon where they are no clause."""
START = re.compile(rf"({'|'.join(WORDS.values())}):?\s+", re.IGNORECASE)
COMMAND = re.compile(r"\s*plasticity-rl ")
AS_IT_WAS_RUN = "as it was run last, with all that it extends; older ones lie beside it under their time."
"""End of the first line of a file that ``study run`` has written; it says nothing about the study."""
WIDTH = 118


@dataclass(frozen=True)
class Claim:
    """What a study file says in words; each is empty where it does not.

    Attributes:
        setting: What it says besides, e.g. how a small study differs from the one that it extends.
        claim: What it claims.
        source: Where the claim is from.
        confirmed: Which verdicts confirm it.
        contradicted: Which contradict it.
        note: What to know about either.
    """

    setting: str = ""
    claim: str = ""
    source: str = ""
    confirmed: str = ""
    contradicted: str = ""
    note: str = ""

    @property
    def named(self) -> list[tuple[str, str]]:
        """Words that introduce an entry, and the entry; of those that there are."""
        own = [(WORDS.get(one.name, "Setting"), getattr(self, one.name)) for one in fields(self)]
        order = [*own[1:2], *own[:1], *own[2:]]
        return [(words, _capital(text) if not words.endswith(" if") else text) for words, text in order if text]

    def over(self, below: Claim) -> Claim:
        """Return it, with entries of a study that it extends where it has none; a setting is a file's own."""
        return replace(below, **{one.name: text for one in fields(self) if (text := getattr(self, one.name))})

    def comment(self) -> str:
        """Return it as a comment that :func:`claim_in` reads back."""
        entries = [self.setting] if self.setting else []
        entries += [
            f"{words}{' ' if words.endswith(' if') else ': '}{text}"
            for one, words in WORDS.items()
            if (text := getattr(self, one))
        ]
        wrap = {"width": WIDTH, "subsequent_indent": "  ", "break_on_hyphens": False, "break_long_words": False}
        return "".join(f"# {line}\n" for one in entries for line in textwrap.wrap(one, **wrap))  # type: ignore[arg-type]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def claim_in(text: str) -> Claim:
    """Return what the comment at the top of a study file says; commands in it are left out."""
    found: dict[str, list[str]] = {}
    entry = "setting"
    for line in leading_comment(text).splitlines():
        if COMMAND.match(line) or line.endswith(AS_IT_WAS_RUN):
            continue
        if start := START.match(line):
            (entry,) = [one for one, words in WORDS.items() if words.lower() == start[1].lower()]
            line = line[start.end() :]
        found.setdefault(entry, []).append(line.strip())
    return Claim(**{one: " ".join(filter(None, lines)) for one, lines in found.items()})


def claim_over(own: Claim, extended: Iterable[Claim]) -> Claim:
    """Return the claim of a study that extends others, of which later ones replace what earlier ones say."""
    below = Claim()
    for one in extended:
        below = replace(one, setting="").over(below)
    return own.over(below)
