"""``normalize: human`` in a study file, and reports of the evaluation after training."""

from __future__ import annotations

import sys

import pytest
from made_studies import Curves, ends, flat, report_of, study_of, tables

from plasticity_rl import UserError
from plasticity_rl.results.runs import read_run
from plasticity_rl.study.endpoints import FINAL_RETURN, RETURN_AFTER_TRAINING, Endpoint, read_endpoint
from plasticity_rl.study.scores import score_of
from plasticity_rl.study.spec import read_study
from plasticity_rl.study.study_run import StudyRun

GAMES = ("atari:freeway", "atari:boxing", "atari:pong")
HNS = {  # arm -> game -> human-normalised score of the first seed, percent; each next seed has 1 more
    "plain": {"atari:freeway": 50.0, "atari:boxing": 120.0, "atari:pong": 10.0},
    "new": {"atari:freeway": 150.0, "atari:boxing": 140.0, "atari:pong": 10.0},
}
SPAN = {"atari:freeway": (0.0, 29.6), "atari:boxing": (0.1, 12.0), "atari:pong": (-20.7, 35.3)}
"""Random score, and by how much a human is better."""
AFTER = {"tag": "final/return"}


@pytest.fixture
def without_figures(monkeypatch):
    """They take most of the time."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def raw(run: StudyRun, more: float = 0.0) -> float:
    random, better = SPAN[run.task]
    return random + better * (HNS[run.arm][run.task] + run.seed - 1 + more) / 100


def curves(run: StudyRun) -> Curves:
    return {"eval/return": flat(raw(run)), "final/return": {100: raw(run, 7.0)}, "fau/critic": flat(0.5)}


def made(where, **more):
    return study_of(where, curves, tasks=GAMES, **{"normalize": "human", **more})


def test_tables_by_hand(tmp_path, without_figures):
    """Seeds 1 to 5 add 0 to 4, so every mean is 2 more. plain: 52, 122, 12: mean 62, median 52, one above 100."""
    text = report_of(made(tmp_path), tmp_path / "out")
    (plain, new), (difference,) = tables(text, "all tasks")
    assert ends(plain["mean"])[0] == 62.0
    assert plain["median"] == "52.0"
    assert plain["superhuman games"] == "1"
    assert ends(new["mean"])[0] == pytest.approx(102.0)  # 152, 142, 12
    assert (new["median"], new["superhuman games"]) == ("142.0", "2")
    assert ends(difference["final return"])[0] == 40.0  # (100 + 20 + 0) / 3
    assert "human-normalised, in percent" in text
    ((one, _), _) = tables(text, "atari:freeway")
    assert ends(one["mean"])[0] == 52.0
    assert "superhuman games" not in one
    assert one["FAU critic"].startswith("0.5")


def test_the_optimality_gap_is_in_percent(tmp_path, without_figures):
    """Of 100: plain misses it by 48 on Freeway, 0 on Boxing and 88 on Pong."""
    (plain, _), _ = tables(report_of(made(tmp_path, max_return=100), tmp_path / "out"), "all tasks")
    assert ends(plain["optimality gap"])[0] == pytest.approx(136 / 3, abs=0.05)


def test_scores_of_the_evaluation_after_training(tmp_path, without_figures):
    """Where it is the primary endpoint, all scores are made of it: 7 more than above."""
    text = report_of(made(tmp_path, primary=AFTER), tmp_path / "out")
    (plain, _), _ = tables(text, "all tasks")
    assert ends(plain["mean"])[0] == 69.0
    assert "final return: final/return, mean over the episodes of one evaluation after training" in text
    assert "primary endpoint, final/return: runs" in text
    assert "averages little" not in text
    assert "is no average" not in text


def test_without_it_returns_stay_as_they_are(tmp_path, without_figures):
    text = report_of(made(tmp_path, normalize=None), tmp_path / "out")
    ((plain, _), _) = tables(text, "atari:freeway")
    assert ends(plain["mean"])[0] == pytest.approx(0.52 * 29.6, abs=0.05)
    assert "superhuman" not in text
    assert "normalised" not in text


def test_figures_have_the_unit(tmp_path):
    report_of(made(tmp_path, seeds=2), tmp_path / "out")
    assert "percent of human score" in (tmp_path / "out" / "index.html").read_text()


def test_a_run_of_several_games_keeps_the_curve_of_each(tmp_path):
    """The one over all games is left out, and that is said."""

    def mixed(run: StudyRun) -> Curves:
        return {**curves(run), "eval/atari:boxing/return": flat(12.1), "eval/atari:freeway/return": flat(14.8)}

    path = study_of(tmp_path, mixed, tasks=GAMES[:1], normalize="human", measures=["eval/atari:boxing/return"])
    study = read_study(path)
    run = study.runs()[0]
    score = score_of(run, read_run(run.folder), study)
    assert score.values[Endpoint("eval/atari:boxing/return", "final")] == pytest.approx(100.0)
    assert FINAL_RETURN not in score.values
    assert any("eval/return: no eval/<task>/visit_<n>/return tells which" in problem for problem in score.problems)


@pytest.mark.parametrize(
    ("tasks", "value", "says"),
    [
        (["cheetah_run"], "human", "normalize: human: cheetah_run is no Atari game"),
        (["atari:pong", "minatar:breakout"], "human", "normalize: human: minatar:breakout is no Atari game"),
        (["atari:adventure"], "human", "normalize: human: there is no human score of 'adventure'"),
        (["atari:pong"], "random", "normalize: 'random' must be human"),
        (["atari:pong"], True, "normalize: True must be human"),
    ],
)
def test_what_is_refused(tmp_path, tasks, value, says):
    with pytest.raises(UserError, match=says) as refused:
        study_of(tmp_path, lambda run: None, tasks=tasks, normalize=value)
    assert "\n" not in str(refused.value)


def test_an_endpoint_after_training():
    """It is one point: it needs no share, and does not say so."""
    endpoint = read_endpoint(AFTER, "primary", 100)
    assert endpoint == RETURN_AFTER_TRAINING
    assert endpoint.name == "final/return"
    assert endpoint.share is None
