"""The generated part of ``docs/results.md`` is what the kept runs in ``docs/evidence`` say, and nothing else."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import evidence
import pytest
from cli_runs import REPOSITORY, call
from made_studies import ends, flat, study_of

from plasticity_rl.cli.study_reports import make_report_of
from plasticity_rl.packaged import study_names
from plasticity_rl.study.endpoints import Endpoint
from plasticity_rl.study.spec import read_study

TEXT = evidence.PAGE.read_text()
KEPT = evidence.kept_files()
PART = evidence.PART.search(TEXT)[0]


@pytest.mark.parametrize("file", KEPT, ids=evidence.name_of)
def test_the_page_says_what_a_kept_file_says(file: Path, monkeypatch):
    """Rebuilt from the file: its rows of the table, and its section."""
    monkeypatch.chdir(REPOSITORY)
    rows, section = evidence.evidence_of(file)
    assert rows
    assert evidence.table([evidence.HEAD, *rows]).partition("--- |\n")[2] in PART, "make evidence"
    assert section in PART, "make evidence"


def test_the_page_has_a_section_for_every_kept_file_and_for_nothing_else():
    names = [evidence.name_of(file) for file in KEPT]
    assert re.findall(r"^### (\S+)$", PART, re.MULTILINE) == names
    assert (evidence.NONE_YET in PART) == (not names)
    for name in names:
        assert name in study_names(), "a file is named like its study"


def test_kept_files_are_small():
    assert sum(file.stat().st_size for file in KEPT) < 5_000_000


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A repository with one study, whose runs were kept: the second arm is 10 to 80 better, the third differs."""
    root = tmp_path_factory.mktemp("root")
    better = {"plain": 0, "new": 10, "other": 1}

    def curves(run):
        varies = {1: -60, 2: 40, 3: -10, 4: 30, 5: 0, 6: 20, 7: -30, 8: 10}[run.seed] * (run.arm == "other")
        return {"eval/return": flat(100.0 + better[run.arm] * run.seed + varies), "fau/critic": flat(0.25)}

    made = study_of(root, curves, arms=("plain", "new", "other"), seeds=8)
    study = root / "configs" / "studies" / "mini" / "made.yaml"
    study.parent.mkdir(parents=True)
    study.write_text("# Claim: new is better.\n# Confirmed if new is above 0.\n" + made.read_text())
    file = root / "docs" / "evidence" / "mini" / "made.tar.xz"
    assert call("study", "keep", study, "--out", file).code == 0
    shutil.rmtree(root / "runs")
    return root


def test_the_part_of_a_study(root, monkeypatch):
    """New - plain is 10, 20, ... 80: mean 45, standard error 8.66, 2.365 of them to each side; p is 2 in 256."""
    monkeypatch.chdir(root)
    (file,) = evidence.kept_files(root)
    assert evidence.name_of(file, root) == "mini/made"
    figure = root / "docs" / evidence.figure_of("mini/made")
    (new, other), section = evidence.evidence_of(file, root, figure)
    assert new[:4] == ["`mini/made`", "New is better.", "new - plain", "8"]
    assert ends(new[4]) == (45.0, 24.5, 65.5)
    assert new[5:] == ["0.0078", "0.016", "above 0", ""]
    assert (other[1], other[7]) == ("", "undecided")
    assert int(other[8].removeprefix("over ").replace(",", "")) > 8
    drawn = figure.read_text()
    assert drawn.count("<svg") == 1
    clips = re.findall(r'<clipPath id="(.*)">', drawn)
    assert clips
    assert all(re.fullmatch(r"clip\d+", clip) for clip in clips)
    assert set(re.findall(r"url\(#(.*?)\)", drawn)) == set(clips)
    assert not re.search(r' [dxy]="[^"]*\.\d{2}', drawn)  # tenths of a point, but for scales of letters
    assert re.search(r"scale\(0\.\d{3}", drawn)
    for words in (
        "### mini/made\n\n- Claim: New is better.\n",
        "- Confirmed if: new is above 0.\n",
        f"other (about {other[8]} seeds): undecided. In brackets: how many would decide it, if the",
        "new: above 0",
        "plasticity-rl study report mini/made --from docs/evidence/mini/made.tar.xz --out report/",
        "![Curves of mini/made](evidence/mini/made.svg)",
        "| arm | seeds | IQM |",
        "| new | 8 | 145.0 [",
        "| arm | eval/return | fau/critic |",
        "| plain | 100.0 [none] to 100.0 [none] | 0.250 [none] to 0.250 [none] |",
    ):
        assert words in section, words


def test_lines_are_drawn_in_steps_that_add_up_to_their_points():
    """Rounded are the points, not the steps: 0, 0.04, 0.08 and 0.12 are 0, 0, 0.1 and 0.1."""
    svg = (
        '<g id="line2d_1">\n  <path d="M 1 2 \nL 1.04 2 \nL 1.08 1.5 \nL 1.12 -7.25 \nz\n" style="fill: none"/>\n</g>\n'
    )
    assert evidence.tidied(svg) == '<path d="M1,2l0,0l0.1,-0.5l0,-8.7z" style="fill: none"/>\n'
    letter = '<path id="a" d="M 603 4863 \nQ 1 2 3 4 \nz\n" transform="scale(0.015625)"/>'
    assert evidence.tidied(letter) == letter.replace(" \n", "\n")


@pytest.mark.parametrize(
    ("arms", "room"),
    [
        (4, ["fau/actor", "eval/return", "fau/critic"]),
        (13, ["fau/actor", "eval/return", "fau/critic"]),
        (15, ["eval/return", "fau/critic"]),
        (90, ["eval/return"]),
    ],
)
def test_of_many_arms_as_many_curves_are_drawn_as_fit(arms, room):
    study = SimpleNamespace(primary=Endpoint("eval/return"), secondary=(Endpoint("fau/critic", "final"),))
    report = SimpleNamespace(arms=["arm"] * arms, tags=["fau/actor", "eval/return", "fau/critic"], study=study)
    assert evidence.drawn_tags(report) == room


def test_the_course_of_a_run_is_its_first_and_its_last_eighth(tmp_path, monkeypatch):
    """Of 100 frames the points up to 12.5 and behind 87.5; three seeds, whose mean is 2 higher at the end."""
    monkeypatch.chdir(tmp_path)
    curves = {0: 1.0, 12: 3.0, 13: 50.0, 87: 50.0, 88: 4.0}

    def of(run):
        return {"eval/return": {frame: value + run.seed for frame, value in curves.items()} | {100: 4.0 + run.seed}}

    study = read_study(study_of(tmp_path, of, arms=("plain",), seeds=3))
    report = make_report_of(study)
    (head, row) = evidence.course(report, report.sections[0])
    assert head == ["arm", "eval/return"]
    assert row == ["plain", "4.0 [1.5, 6.5] to 6.0 [3.5, 8.5]"]  # t of 2 degrees times 1 / sqrt(3): 2.48


def test_the_page_is_made_anew_between_the_comments_only(root, monkeypatch):
    monkeypatch.chdir(root)
    found = [evidence.evidence_of(file, root) for file in evidence.kept_files(root)]
    text = evidence.page(TEXT, found)
    assert text.count("| `mini/made` | New is better. | new - plain | 8 |") == 1
    assert evidence.PART.sub("", text) == evidence.PART.sub("", TEXT)
    assert evidence.page(text, found) == text
    assert evidence.NONE_YET in evidence.page(text, [])


def test_a_file_that_cannot_be_reported_on_is_said_to_be_one(root, monkeypatch, tmp_path):
    monkeypatch.chdir(root)
    study = root / "configs" / "studies" / "mini" / "made.yaml"
    before = study.read_text()
    study.write_text(before.replace("max_frames: 100", "max_frames: 200"))
    try:
        rows, section = evidence.evidence_of(*evidence.kept_files(root), root)
    finally:
        study.write_text(before)
    assert "none: docs/evidence/mini/made.tar.xz holds no finished run" in rows[0][7]
    assert "max_frames was 100, is 200" in section
