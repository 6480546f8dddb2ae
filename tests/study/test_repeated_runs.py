"""Runs that were made more than once, copied, continued or resumed: what a report of human-normalised scores counts."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from cli_runs import call
from made_studies import ends, flat, report_of, study_of, tables
from run_folders import write_events

from plasticity_rl import UserError
from plasticity_rl.results.runs import Curve, read_run
from plasticity_rl.study.endpoints import AREA, RETURN_AFTER_TRAINING, Endpoint, read_endpoint
from plasticity_rl.study.human_scores import normalise_curves
from plasticity_rl.study.kept import opened
from plasticity_rl.study.scores import Score, read_scores, score_of
from plasticity_rl.study.spec import read_study
from plasticity_rl.study.study_run import StudyRun

FREEWAY, BOXING = "atari:freeway", "atari:boxing"  # 0 to 29.6 and 0.1 to 12.1 of random and human
AFTER = {"tag": "final/return"}


@pytest.fixture(autouse=True)
def without_figures(monkeypatch):
    """They take most of the time."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def made(where: Path, curves, **more) -> Path:
    options = {"tasks": [FREEWAY], "arms": ("plain",), "seeds": 1, "normalize": "human"}
    return study_of(where, curves, **{**options, **more})


def first_score(path: Path) -> Score:
    study = read_study(path)
    run = study.runs()[0]
    return score_of(run, read_run(run.folder), study)


@pytest.mark.parametrize(("entry", "value"), [("seeds", [1, 2, 1]), ("tasks", [FREEWAY, BOXING, FREEWAY])])
def test_a_study_names_every_cell_once(tmp_path, entry, value):
    path = made(tmp_path, lambda run: None)
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), entry: value}))
    with pytest.raises(UserError, match=rf"{entry}=.* must be a list without repetitions"):
        read_study(path)


def test_a_run_beside_the_cells_does_not_count(tmp_path):
    """Somebody ran a cell again, in a folder of their own beside the seeds."""
    path = made(tmp_path, lambda run: {"eval/return": flat(14.8 if run.seed == 1 else 29.6)}, seeds=2)
    one, _ = read_study(path).runs()
    again = one.folder.with_name("seed1_again")
    shutil.copytree(one.folder, again)
    write_events(again, {"eval/return": {200: -1000.0}})
    ((plain,),) = tables(report_of(path, tmp_path / "out"), FREEWAY)
    assert ends(plain["mean"])[0] == 75.0  # of 50 and 100


def test_a_copy_in_the_place_of_another_seed_is_told_and_not_counted(tmp_path):
    path = made(tmp_path, lambda run: {"eval/return": flat(14.8 * run.seed)}, seeds=3)
    one, two, _ = read_study(path).runs()
    shutil.rmtree(two.folder)
    shutil.copytree(one.folder, two.folder)
    text = report_of(path, tmp_path / "out")
    assert f"Left out, stale: {two.name}: seed_everything is 1 in the run, 2 in the study" in text
    ((plain,),) = tables(text, FREEWAY)
    assert ends(plain["mean"])[0] == 100.0  # of 50 and 150; with the copy it would be 83


def test_a_copy_in_the_place_of_another_game_is_told_and_not_counted(tmp_path):
    """It would be normalised by the wrong scores."""
    path = made(tmp_path, lambda run: {"eval/return": flat(12.1)}, tasks=[FREEWAY, BOXING])
    freeway, boxing = read_study(path).runs()
    shutil.rmtree(boxing.folder)
    shutil.copytree(freeway.folder, boxing.folder)
    text = report_of(path, tmp_path / "out")
    assert f"Left out, stale: {boxing.name}: data.task is {FREEWAY} in the run, {BOXING} in the study" in text
    assert f"The baseline plain has no finished run on {BOXING}" in text


def test_of_a_resumed_run_the_points_of_the_lost_session_do_not_count(tmp_path):
    """It was killed after frame 80 and went on from 40."""
    path = made(tmp_path, lambda run: {"eval/return": {0: 0.0, 40: 14.8, 60: 1000.0, 80: 2000.0}})
    write_events(read_study(path).runs()[0].folder, {"eval/return": {60: 14.8, 80: 29.6, 100: 29.6}})
    score = first_score(path)
    curve = score.curve("eval/return")
    np.testing.assert_array_equal(curve.frames, [0, 40, 60, 80, 100])
    np.testing.assert_allclose(curve.values, [0, 50, 50, 100, 100], atol=1e-4)  # logged as float32
    assert score.values[Endpoint("eval/return", "final")] == pytest.approx(100.0)


# ---- runs that went on after their end -------------------------------------------------------------------------------


def ended_twice(frame: int, first: float = 14.8, second: float = 29.6):
    """A run that ended at ``frame``, and went on to frame 100 when its study was made longer."""

    def curves(run: StudyRun):
        return {"eval/return": flat(14.8), "final/return": {frame: first, 100: second}}

    return curves


@pytest.mark.parametrize("frame", [50, 95])
def test_of_the_evaluations_after_training_the_last_counts(tmp_path, frame):
    """Also where both ends lie within a tenth of the frames."""
    score = first_score(made(tmp_path, ended_twice(frame), primary=AFTER))
    assert score.values[RETURN_AFTER_TRAINING] == pytest.approx(100.0)
    assert score.points[RETURN_AFTER_TRAINING] == 1


@pytest.mark.parametrize("of", ["area", "last_third"])
def test_any_other_share_of_it_is_the_same_number(of):
    curve = Curve(np.array([95, 100]), np.array([1.0, 3.0]))
    assert read_endpoint({**AFTER, "of": of}, "primary", 100).value(curve) == 3.0


def config_of_longer_run(path: Path) -> None:
    """As a run has it that went on: what it began with stays, and the longer length is that of a later start."""
    file = read_study(path).runs()[0].folder / "config.yaml"
    longer = yaml.safe_dump({**yaml.safe_load(file.read_text()), "max_frames": 200})
    (file.parent / "config_resumed_20260101-000000.yaml").write_text(longer)
    (file.parent / "finished.yaml").write_text("env_frames: 200\n")


def test_of_a_longer_run_the_evaluation_at_the_end_of_the_study_counts(tmp_path):
    def curves(run: StudyRun):
        return {"eval/return": {0: 0.0, 100: 14.8, 200: 29.6}, "final/return": {100: 14.8, 200: 29.6}}

    path = made(tmp_path, curves, primary=AFTER)
    config_of_longer_run(path)
    score = first_score(path)
    assert score.is_longer
    assert score.values[RETURN_AFTER_TRAINING] == pytest.approx(50.0)
    assert score.problems == ()


def test_a_study_that_was_made_longer_and_short_again_reads_all_runs_to_its_own_end(tmp_path):
    """The return is the frame: 50 on average up to frame 100, 100 up to frame 200; the same from the kept file."""
    ramp = {frame: float(frame) for frame in range(0, 201, 10)}
    short = {frame: value for frame, value in ramp.items() if frame <= 100}
    path = study_of(tmp_path, lambda run: {"eval/return": ramp if run.seed == 1 else short}, arms=("plain",))
    config_of_longer_run(path)
    scores, _ = read_scores(read_study(path))
    assert {score.values[AREA] for score in scores} == {50.0}
    assert call("study", "keep", path, "--out", tmp_path / "kept.tar.xz").code == 0
    study = read_study(path)
    with opened(tmp_path / "kept.tar.xz", study) as kept:
        assert {score.values[AREA] for score in read_scores(kept.study)[0]} == {50.0}


def test_a_longer_run_that_never_ended_there_has_none_and_that_is_said(tmp_path):
    path = made(tmp_path, lambda run: {"eval/return": {0: 0.0, 100: 14.8}, "final/return": {200: 29.6}}, primary=AFTER)
    config_of_longer_run(path)
    score = first_score(path)
    assert RETURN_AFTER_TRAINING not in score.values
    name = score.run.name
    assert score.problems == (f"{name}: final/return begins at frame 200, beyond the end of the study",)
    assert "final/return begins at frame 200, beyond the end of the study" in report_of(path, tmp_path / "out")


# ---- several games in one run ----------------------------------------------------------------------------------------


def test_of_a_resumed_run_of_several_games_the_points_of_lost_visits_do_not_count():
    """Killed after frame 150 in its visit to Boxing, it went on from frame 50, and stayed with Freeway until 200.

    The curve over all games was logged again, the visit to Boxing was not: 0.1 there would be 0 percent. At frame 150
    both visits have a point.
    """
    whole = Curve(np.array([50, 100, 150, 200]), np.array([0.0, 14.8, 29.6, np.nan]))
    curves = {
        "eval/return": whole,
        "eval/atari:freeway/visit_0/return": whole,
        "eval/atari:boxing/visit_1/return": Curve(np.array([125, 150]), np.array([0.1, 0.1])),
    }
    for order in (curves, dict(reversed(curves.items()))):
        found, problems = normalise_curves(order, FREEWAY)
        np.testing.assert_array_equal(found["eval/return"].frames, whole.frames)
        np.testing.assert_allclose(found["eval/return"].values, [0.0, 50.0, 100.0, np.nan])
        assert problems == []
