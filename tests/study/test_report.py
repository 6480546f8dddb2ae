"""``plasticity-rl study report`` on run folders whose curves are known."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from cli_runs import call
from run_folders import entry, write_run

from plasticity_rl.results.runs import read_run
from plasticity_rl.study.endpoints import AREA, FINAL_RETURN, Endpoint
from plasticity_rl.study.figures import curve_of
from plasticity_rl.study.scores import read_scores, score_of, table_of
from plasticity_rl.study.spec import read_study
from plasticity_rl.study.study_run import StudyRun

FINAL = {("with", "none"): 500.0, ("with", "often"): 510.0, ("without", "none"): 100.0, ("without", "often"): 300.0}
RESET = entry("callbacks.Reset", modules=["critic"], at_frames=[50])
RESET_OPTIONS = ["trainer.callbacks.modules=[critic]", "trainer.callbacks.at_frames=[50]"]


def finish(run: StudyRun, final: float) -> None:
    """Write what a run of the study that came to its end leaves: two evaluations, the last of which earns ``final``."""
    settings = {"task": run.task, "seed": run.seed, "augment": run.levels["augmentation"] == "with"}
    given = [RESET] if run.levels["reset"] == "often" else []
    curves = {"eval/return": {0: 0.0, 100: final}, "fau/critic": {10: 0.5, 100: 0.25}, "fau/critic/0": {100: 0.1}}
    curves["dormant/critic/tau_0.0"] = {100: 0.125}
    write_run(run.folder, curves, callbacks=given, **settings)
    (run.folder / "finished.yaml").write_text("env_frames: 100\n")


@pytest.fixture
def study(tmp_path) -> Path:
    return written(tmp_path)


@pytest.fixture(scope="module")
def reported(tmp_path_factory) -> tuple[Path, str]:
    """The folder of one report, and what was printed."""
    folder = tmp_path_factory.mktemp("reported")
    result = call("study", "report", written(folder), "--out", folder / "out")
    assert result.code == 0, result.err
    return folder / "out", result.out


def written(tmp_path: Path) -> Path:
    """Two factors of two levels, two tasks, two seeds; on the second task every return is 100 higher."""
    (tmp_path / "empty.yaml").write_text("{}")
    factors = {
        "augmentation": {"with": ["model.augment=true"], "without": ["model.augment=false"]},
        "reset": {"none": [], "often": ["trainer.callbacks+=callbacks.Reset", *RESET_OPTIONS]},
    }
    base = [str(tmp_path / "empty.yaml"), "data.batch_size=8"]
    content = {"base": base, "max_frames": 100, "tasks": ["walk", "run"], "seeds": [1, 2]}
    content |= {"max_return": 1000, "measures": ["dormant/critic/tau_0.0"]}
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({**content, "folder": str(tmp_path / "runs"), "factors": factors}, sort_keys=False))
    for run in read_study(path).runs():
        higher = 100 * (run.task == "run") + 2 * run.seed  # seeds differ by 2
        finish(run, FINAL[run.levels["augmentation"], run.levels["reset"]] + higher)
    return path


def test_scores(study):
    scores, missing = read_scores(read_study(study))
    assert missing == []
    assert len(scores) == 16
    fau, dormant = Endpoint("fau/critic", "final"), Endpoint("dormant/critic/tau_0.0", "final")
    assert scores[0].values == {FINAL_RETURN: 502.0, AREA: 251.0, fau: 0.25, dormant: 0.125}
    assert scores[0].problems == ()
    values = table_of(scores, ["walk", "run"], FINAL_RETURN)
    assert list(values) == [" + ".join(arm) for arm in FINAL]
    assert [one.tolist() for one in values["without + often"]] == [[302.0, 304.0], [402.0, 404.0]]
    first = scores[0].run
    assert score_of(first, read_run(first.folder), read_study(study)) == scores[0]


def test_the_report(reported):
    """IQM of two seeds is their mean: 503 on walk; of 502, 504, 602, 604 the middle two: 553.

    Two seeds 2 apart have a standard error of 1, times 12.7 of one degree of freedom; four on two tasks half of the
    square root of 2, times 4.3 of two.
    """
    out, printed = reported
    text = (out / "report.md").read_text()
    assert text in printed
    compared, walk, run, together = text.split("\n## ")[1:]
    assert [part.splitlines()[0] for part in (compared, walk, run, together)] == [
        "Comparisons",
        "walk",
        "run",
        "all tasks",
    ]
    rows = [dict(zip(*pair, strict=True)) for pair in rows_and_head(walk)]
    assert [row["arm"] for row in rows] == [" + ".join(arm) for arm in FINAL]
    iqm = rows[0].pop("IQM")
    assert re.fullmatch(r"503\.0 \[(490|489)\.\d, 51[567]\.\d\]", iqm)
    assert rows[0] == {
        "arm": "with + none",
        "seeds": "2",
        "median": "503.0",
        "mean": "503.0 [490.3, 515.7]",
        "optimality gap": "497.0 [484.3, 509.7]",
        "area under curve": "251.5 [245.1, 257.9]",
        "P(better)": "",
        "FAU critic": "0.250 [none]",
        "dormant/critic/tau_0.0": "0.125 [none]",
    }
    assert rows[2]["P(better)"] == "0.00 [0.00, 0.66]"  # of two trials
    differences = [dict(zip(*pair, strict=True)) for pair in rows_and_head(walk, table=1)]
    assert differences[1] == {
        "minus with + none": "without + none",
        "area under curve": "-200.0 [none]",
        "final return": "-400.0 [none]",
        "FAU critic": "+0.000 [none]",
        "dormant/critic/tau_0.0": "+0.000 [none]",
    }
    pooled = [dict(zip(*pair, strict=True)) for pair in rows_and_head(together)]
    assert pooled[0]["seeds"] == "2 + 2"
    assert pooled[0]["IQM"].startswith("553.0 [")
    assert pooled[0]["mean"] == "553.0 [550.0, 556.0]"
    assert pooled[0]["median"] == "553.0"  # of the task means 503 and 603
    # A reset adds 5 to the area with augmentation and 100 without.
    assert "+5.0 [none] with augmentation = with, +100.0 [none]" in walk
    assert "Interaction (the second minus the first): +95.0 [none]." in walk
    rows = [dict(zip(*pair, strict=True)) for pair in rows_and_head(compared)]
    assert [row["comparison"] for row in rows] == [
        "with + often",
        "without + none",
        "without + often",
        "interaction of augmentation = without and reset = often",
    ]
    assert rows[3] == {
        "comparison": rows[3]["comparison"],
        "pairs": "2 + 2",
        "correlation": "",
        "difference": "+95.0 [none]",
        "p": "0.12",  # 2 of 16 flips
        "p (Holm)": "0.5",
        "verdict": "none: fewer than 5 pairs on a task",
        "seeds to decide": "",  # all pairs are equal, which says nothing of the next seed
    }
    assert "a verdict on 4 needs 8 pairs over all tasks, here are 4. So no verdict is possible." in compared
    assert "Only 2 seeds in some arms" in text
    assert "Not finished" not in text
    for name in ("curves", "scores", "profiles"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (out / f"{name}.svg").read_text()
        assert f"![{name}]({name}.png)" in text


def rows_and_head(section: str, table: int = 0) -> list[tuple[list[str], list[str]]]:
    """Return each row of one of the section's tables beside its head."""
    block = re.findall(r"(?:^\|.*\n?)+", section, re.MULTILINE)[table]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines() if line.startswith("| ")]
    return [(lines[0], line) for line in lines[1:]]


def test_the_page_needs_nothing_else(reported):
    """Figures and tables are inside, and everything the report says."""
    page = (reported[0] / "index.html").read_text()
    assert page.count("<svg") == 3
    # Comparisons; return, FAU, measure and differences of each section; what arms add, and where they differ.
    assert page.count("<table>") == 1 + 4 * 3 + 2
    assert not re.search(r"<(link|img)|<script src|(src|href)=[\"']https?:|url\(http", page)
    assert "<td>503.0<br>[490.3, 515.7]</td>" in page
    assert "Interaction (the second minus the first): +95.0" in page
    assert "Only 2 seeds" in page
    assert "<td><code>model.augment=false</code></td>" in page
    assert re.search(
        r"<td><code>model\.augment</code></td><td>true</td><td>true</td><td>false</td><td>false</td>", page
    )
    assert "All options of with + often" in page
    assert "Missing runs" not in page


def test_latex(reported):
    blocks = (reported[0] / "report.tex").read_text().strip().split("\n\n")
    assert len(blocks) == 1 + 2 * 3
    assert blocks[0].startswith("% small, Comparisons")
    assert "% Differences from the baseline with + none in the primary endpoint, area under" in blocks[0]
    lines = blocks[1].splitlines()
    assert lines[1] == r"\begin{tabular}{lrrrrrrrrr}"
    assert lines[3].startswith("arm & seeds & IQM & median")
    assert r"dormant/critic/tau\_0.0" in lines[3]
    assert r" & 503.0 & $503.0_{[490.3, 515.7]}$ & " in lines[5]
    assert r" & $0.250$ & " in lines[5]
    assert {line.count(" & ") for line in lines if line.endswith(r"\\")} == {9}


def test_interactions_of_more_than_two_levels(study, tmp_path):
    """Each level of the second factor against its first, at each level of the first factor against its first."""
    content = yaml.safe_load(study.read_text())
    content["factors"]["reset"] = {"none": [], "often": content["factors"]["reset"]["often"], "later": ["model.lr=1"]}
    study.write_text(yaml.safe_dump(content, sort_keys=False))
    text = call("study", "report", study, "--out", tmp_path / "out").out
    assert text.count("Effect of reset = often") == 3
    assert "Effect of reset = later" not in text, "it has no finished run"
    assert "walk/with+later/seed1" in text


def test_one_curve_over_several_tasks(study):
    """At frame 50 the returns of an arm are halfway from 0: 251, 252, 301, 302; the middle two have mean 276.5."""
    scores, _ = read_scores(read_study(study))
    band = curve_of([s for s in scores if s.arm == "with + none"], ["walk", "run"], "eval/return")
    assert band.num_runs == 2, "of the task that has the fewest"
    assert np.interp(50, band.frames, band.iqm) == pytest.approx(276.5)
    assert curve_of(scores, ["walk", "run"], "nothing") is None


def test_runs_that_are_not_finished_are_named_and_left_out(study, tmp_path):
    lost = read_study(study).runs()[1]
    (lost.folder / "finished.yaml").unlink()
    text = call("study", "report", study, "--out", tmp_path / "out").out
    assert f"**Not finished, left out: {lost.name}.**" in text
    assert (
        f"1 of 16 runs is missing. To run them (what is finished is skipped): `plasticity-rl study run {study}`" in text
    )
    page = (tmp_path / "out" / "index.html").read_text()
    assert f"<td>{lost.name}</td><td>never finished, and has no checkpoint</td>" in page
    assert "| with + often | 1 + 2 (unbalanced) |" in text
    assert "Only 1 seed in some arms: no verdict below 5, and no interval of one." in text


def test_a_study_without_a_finished_run_is_refused(study, tmp_path):
    for run in read_study(study).runs():
        (run.folder / "finished.yaml").unlink()
    result = call("study", "report", study, "--out", tmp_path / "out")
    assert result.code == 2
    assert "no run of small is finished" in result.err
    assert not (tmp_path / "out").exists()
