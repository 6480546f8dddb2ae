"""The list of claims on ``docs/results.md``: every study once, in the order of its source, with what is kept of it."""

from __future__ import annotations

import claims
import evidence
import pytest
from cli_runs import REPOSITORY


def test_every_study_at_full_size_has_its_place_once():
    named = [name for names in claims.PARTS.values() for name in names]
    files = sorted(path.stem for path in (REPOSITORY / "configs" / "studies").glob("*.yaml"))
    assert sorted(named) == files
    for name in named:
        assert (REPOSITORY / "configs" / "studies" / "mini" / f"{claims.SMALL_OF.get(name, name)}.yaml").is_file()


def test_the_page_says_of_every_claim_what_the_kept_runs_say(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    text = evidence.PAGE.read_text()
    parts = list(claims.claims())
    assert claims.page(text, parts) == text, "make evidence"
    found = [one for _, some in parts for one in some]
    assert {name for one in found for name in one.found} == {evidence.name_of(file) for file in evidence.kept_files()}
    assert all((claims.NONE in one.line()) == (not one.found) for one in found)
    for _, runs in [each for one in found for each in one.found.values()]:
        anchor = runs.partition("(#")[2].rstrip(")")
        assert f'#{anchor}"' in site_anchors(text)


def test_a_file_that_nobody_judged_is_refused(tmp_path, monkeypatch):
    """By another file of a study, and by one of a study that is new."""
    for name in ("failed_replay", "made_up"):
        file = tmp_path / "docs" / "evidence" / "mini" / f"{name}.tar.xz"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"other runs")
        monkeypatch.setattr(evidence, "name_of", lambda file: f"mini/{file.name.removesuffix('.tar.xz')}")
        with pytest.raises(
            ValueError, match=rf"judged\.yaml needs mini/{name} with sha256: [0-9a-f]{{16}} and verdict"
        ):
            claims.judged(file)


def site_anchors(text: str) -> str:
    """Return the links that the site makes of headings: lower case, without what is no letter."""
    headings = [line.lstrip("# ") for line in text.splitlines() if line.startswith("### ")]
    return " ".join(f'#{heading.lower().replace("/", "").replace(" ", "-")}"' for heading in headings)
