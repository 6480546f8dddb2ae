"""What a study claims, in the comment of its file, and where its runs come from: as a report says it."""

from __future__ import annotations

import pytest
import yaml

from plasticity_rl.packaged import study_names
from plasticity_rl.study.claims import Claim, claim_in, claim_over
from plasticity_rl.study.origins import origins_of
from plasticity_rl.study.spec import read_study

TEXT = """\
# Two cores only.
# Claim: resets help
#   a lot.
# Confirmed if a verdict is "above 0".
# contradicted if not.
#   plasticity-rl study run mine.yaml
base: []
# Note: this is no comment at the top.
"""


def test_the_comment_of_a_study():
    claim = claim_in(TEXT)
    assert claim == Claim("Two cores only.", "resets help a lot.", "", 'a verdict is "above 0".', "not.", "")
    assert claim.named[0] == ("Claim", "Resets help a lot.")
    assert claim.named[1] == ("Setting", "Two cores only.")
    assert (
        claim_in(
            f"# small.yaml as it was run last, with all that it extends; older ones lie beside it under their "
            f"time.\n{claim.comment()}"
        )
        == claim
    )
    assert claim_in("base: []").named == []


def test_a_study_has_the_claim_of_what_it_extends_and_a_setting_of_its_own():
    own, first, second = Claim("mine", source="me"), Claim("theirs", "one", "you", note="n"), Claim("t", "two")
    assert claim_over(own, [first, second]) == Claim("mine", "two", "me", note="n")


@pytest.mark.parametrize("name", ["replay_ratio", "mini/replay_ratio"])
def test_packaged_studies_say_their_claim_and_criterion(name):
    claim = read_study(study_names()[name]).claim
    assert all([claim.claim, claim.source, claim.confirmed, claim.contradicted])


def test_where_runs_come_from(tmp_path):
    """A run that went on elsewhere counts on both machines; one of an older version notes less, one nothing."""
    start = {"started": "2026-01-02T03:04:05+00:00", "git_revision": "a" * 40 + "+changes", "python": "3.11.7"}
    start |= {
        "platform": "Linux",
        "versions": {"torch": "2.9"},
        "hardware": {"processor": "CPU", "cores": 2, "gpus": ["GPU"]},
    }
    later = {"started": "2026-01-03T00:00:00+00:00", "git_revision": "b" * 40, "platform": "Linux"}
    for name, starts in (("one", [start, later]), ("two", [later]), ("none", None)):
        (tmp_path / name).mkdir()
        if starts is not None:
            (tmp_path / name / "starts.yaml").write_text(yaml.safe_dump(starts))
    (tmp_path / "one" / "finished.yaml").write_text("finished: '2026-01-04T10:20:30+01:00'\n")
    (tmp_path / "none" / "finished.yaml").write_text("env_frames: 100\n")
    found = dict(origins_of([tmp_path / name for name in ("one", "two", "none")]))
    assert found["Trained"] == "2026-01-02 03:04 (UTC+00:00) to 2026-01-04 10:20 (UTC+01:00)"
    revisions = "bbbbbbbbbbbb (2 runs); aaaaaaaaaaaa with changes in files (1 run); unknown (1 run)"
    assert sorted(found["Code revision"].split("; ")) == sorted(revisions.split("; "))
    assert "GPU, 2 cores of CPU, Linux (1 run)" in found["Machine"]
    assert "Python 3.11.7, torch 2.9 (1 run)" in found["Software"]
    assert set(dict(origins_of([tmp_path / "none"])).values()) == {"unknown"}
