"""``docs/results.md``: its pictures are there and small, and what people wrote claims nothing that is withdrawn."""

from __future__ import annotations

import re
from pathlib import Path

from cli_runs import REPOSITORY

DOCS = REPOSITORY / "docs"
TEXT = (DOCS / "results.md").read_text()
WRITTEN = TEXT.partition("\n## From runs that were not kept\n")[2]
"""By people, of runs that are gone; what is generated of kept runs is compared in ``tests/docs/test_evidence.py``."""


def test_there_are_pictures():
    pictures = [Path(name) for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", TEXT)]
    assert pictures
    for picture in pictures:
        assert (DOCS / picture).stat().st_size < 300_000


def test_every_study_that_is_named_exists():
    named = set(re.findall(r"`((?:mini/)?\w+\.yaml)`", TEXT))
    assert named
    for name in named:
        assert (REPOSITORY / "configs" / "studies" / name).is_file() or (REPOSITORY / "configs" / name).is_file()


def test_three_seeds_have_no_verdict_and_an_artefact_is_no_result():
    """Percentile intervals of three seeds, and units that counted a frozen random head."""
    table = [line for line in WRITTEN.splitlines() if line.startswith("| `mini/")]
    assert len(table) == 8
    assert all(line.split("|")[3].strip().startswith("**none**: three seeds") for line in table)
    for line in WRITTEN.splitlines():
        if re.search(r"\+0\.127|[Cc]onfirmed", line):
            assert re.search("withdrawn|artefact", line), line
    assert not re.search(r"0\.379|0\.375 \[0\.368|0\.495|0\.412", WRITTEN)
