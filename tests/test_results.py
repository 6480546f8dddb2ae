"""``docs/results.md``: its commands are accepted, and its pictures are there and small."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from cli_runs import REPOSITORY, call

DOCS = REPOSITORY / "docs"
TEXT = (DOCS / "results.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("plasticity-rl")
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_accepted(command, monkeypatch, tmp_path):
    """Studies are not run: their commands are printed; a report of no runs says that there are none."""
    monkeypatch.chdir(REPOSITORY)
    _, study, action, path, *rest = shlex.split(command, comments=True)
    assert study == "study"
    if action == "run":
        result = call("study", "run", path, *rest, "--dry-run")
        assert result.code == 0, result.err
    else:
        assert action == "report"
        result = call("study", "report", path, "--out", tmp_path / "out")
        assert result.code == 0 or "is finished in" in result.err


def test_there_are_commands_and_pictures():
    assert COMMANDS
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
    table = [line for line in TEXT.splitlines() if line.startswith("| `mini/")]
    assert len(table) == 8
    assert all(line.split("|")[3].strip().startswith("**none**: three seeds") for line in table)
    for line in TEXT.splitlines():
        if re.search(r"\+0\.127|[Cc]onfirmed", line):
            assert re.search("withdrawn|artefact", line), line
    assert not re.search(r"0\.379|0\.375 \[0\.368|0\.495|0\.412", TEXT)
