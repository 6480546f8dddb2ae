"""``plasticity-rl study report`` on run folders whose curves are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from cli_runs import call
from run_folders import entry, write_run

from plasticity_rl.run_data import Curve
from plasticity_rl.study import StudyRun, read_study
from plasticity_rl.study_report import final_value, mean_value, read_scores, score_of, table_of

FINAL = {("with", "none"): 500.0, ("with", "often"): 510.0, ("without", "none"): 100.0, ("without", "often"): 300.0}
RESET = entry("callbacks.Reset", modules=["critic"], at_frames=[50])


def curve(*points: tuple[int, float]) -> Curve:
    frames, values = zip(*points, strict=True)
    return Curve(np.array(frames), np.array(values, dtype=float))


def test_final_and_mean_values_by_hand():
    points = curve((0, 0.0), (50, 100.0), (90, 200.0), (100, 300.0))
    assert final_value(points) == 250.0  # frames 90 and 100
    # 50 * 50 + 40 * 150 + 10 * 250 = 2500 + 6000 + 2500 over 100 frames
    assert mean_value(points) == 110.0
    assert final_value(curve((10, 7.0))) == mean_value(curve((10, 7.0))) == 7.0


def finish(run: StudyRun, final: float) -> None:
    """Write what a run of the study that came to its end leaves: two evaluations, the last of which earns ``final``."""
    settings = {"task": run.task, "seed": run.seed, "augment": run.levels["augmentation"] == "with"}
    given = [RESET] if run.levels["reset"] == "often" else []
    curves = {"eval/return": {0: 0.0, 100: final}, "fau/critic": {10: 0.5, 100: 0.25}, "fau/critic/0": {100: 0.1}}
    write_run(run.folder, curves, callbacks=given, **settings)
    (run.folder / "finished.yaml").write_text("env_frames: 100\n")


@pytest.fixture
def study(tmp_path) -> Path:
    """Two factors of two levels, two tasks, two seeds; on the second task every return is 100 higher."""
    (tmp_path / "empty.yaml").write_text("{}")
    factors = {
        "augmentation": {"with": [], "without": ["model.augment=false"]},
        "reset": {"none": [], "often": ["trainer.callbacks+=callbacks.Reset"]},
    }
    content = {"base": [str(tmp_path / "empty.yaml")], "max_frames": 100, "tasks": ["walk", "run"], "seeds": [1, 2]}
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
    assert scores[0].final == {"eval/return": 502.0, "fau/critic": 0.25}
    assert scores[0].mean_return == 251.0
    values = table_of(scores, ["walk", "run"], "eval/return")
    assert list(values) == list(FINAL)
    assert [one.tolist() for one in values["without", "often"]] == [[302.0, 304.0], [402.0, 404.0]]
    assert score_of(scores[0].run) == scores[0]


def test_the_report(study, tmp_path):
    """IQM of two seeds is their mean: 503 on walk; of 502, 504, 602, 604 the middle two: 553."""
    result = call("study", "report", study, "--out", tmp_path / "out")
    assert result.code == 0, result.err
    text = (tmp_path / "out" / "report.md").read_text()
    assert text in result.out
    walk, run, together = text.split("\n## ")[1:]
    assert [part.splitlines()[0] for part in (walk, run, together)] == ["walk", "run", "all tasks"]
    rows = [line for line in walk.splitlines() if line.startswith("| w")]
    assert rows[0].startswith("| with + none | 2 | 503.0 [502.0, 504.0] | 503.0 | 251.5 |  | 0.250 [0.250, 0.250] |")
    assert rows[2].startswith("| without + none | 2 | 103.0 [102.0, 104.0] | 103.0 | 51.5 | 0.00 [0.00, 0.00] |")
    assert "| with + none | 2 + 2 | 553.0 [552.0, 554.0] |" in together
    # A reset adds 10 with augmentation and 200 without.
    assert "+10.0 [" in walk
    assert "+200.0 [" in walk
    assert "Interaction (the second minus the first): +190.0 [" in walk
    assert "above 0" in walk
    assert "Only 2 seeds in some arms" in text
    assert "Not finished" not in text
    for name in ("curves.png", "curves.svg"):
        assert (tmp_path / "out" / name).stat().st_size > 1000


def test_runs_that_are_not_finished_are_named_and_left_out(study, tmp_path):
    lost = read_study(study).runs()[1]
    (lost.folder / "finished.yaml").unlink()
    text = call("study", "report", study, "--out", tmp_path / "out").out
    assert f"**Not finished, left out: {lost.name}.**" in text
    assert "| with + often | 1 |" in text
    assert "Only 1 seeds in some arms" in text


def test_a_study_without_a_finished_run_is_refused(study, tmp_path):
    for run in read_study(study).runs():
        (run.folder / "finished.yaml").unlink()
    result = call("study", "report", study, "--out", tmp_path / "out")
    assert result.code == 2
    assert "no run of small is finished" in result.err
    assert not (tmp_path / "out").exists()
