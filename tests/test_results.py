"""``docs/results.md``: its pictures are there and small, and its studies exist."""

from __future__ import annotations

import re
from pathlib import Path

from cli_runs import REPOSITORY

DOCS = REPOSITORY / "docs"
TEXT = (DOCS / "results.md").read_text()


def test_there_are_pictures():
    pictures = [Path(name) for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", TEXT)]
    assert pictures
    for picture in pictures:
        assert (DOCS / picture).stat().st_size < 300_000


def test_every_study_and_config_that_is_named_exists():
    studies, configs = set(re.findall(r"`(mini/\w+)`", TEXT)), set(re.findall(r"`(configs/[\w/]+\.yaml)`", TEXT))
    assert studies
    assert configs
    for path in (*(f"configs/studies/{name}.yaml" for name in studies), *configs):
        assert (REPOSITORY / path).is_file(), path
