"""The list in callbacks/README.md has one row for each callback, and its tags are those of the docstrings."""

from __future__ import annotations

import inspect
import re

import pytest
from cli_runs import REPOSITORY

import callbacks

LINES = (REPOSITORY / "callbacks" / "README.md").read_text().splitlines()
ROWS = {line.split("|")[1].strip(" `"): line.split("|") for line in LINES if re.match(r"\| `\w+` \|", line)}


def test_there_is_one_row_for_each():
    assert len([line for line in LINES if re.match(r"\| `\w+` \|", line)]) == len(callbacks.__all__)
    assert sorted(ROWS) == sorted(callbacks.__all__)


@pytest.mark.parametrize("name", callbacks.__all__)
def test_its_tags_and_its_fragment(name: str):
    *_, tags, fragment, _ = ROWS[name]
    logs = re.search(r"^Logs:(.*?)^[A-Z]", inspect.getdoc(getattr(callbacks, name)) or "", re.MULTILINE | re.DOTALL)
    assert logs, "no `Logs:` in the docstring"
    documented = set(re.findall(r"``([^`]+/[^`]+)``", logs[1]))
    assert set(re.findall(r"`([^`]+)`", tags)) == documented
    assert tags.strip() == "none" or documented
    assert (REPOSITORY / fragment.strip(" `")).exists()
