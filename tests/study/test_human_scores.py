"""Human-normalised scores of the 57 Atari games, and what is said of several games together."""

from __future__ import annotations

import numpy as np
import pytest

from plasticity_rl import UserError
from plasticity_rl.envs.atari_games import GAMES
from plasticity_rl.results.runs import Curve
from plasticity_rl.results.statistics import iqm_of, mean_of
from plasticity_rl.study.human_scores import (
    SCORES,
    game_of,
    human_normalised,
    normalise_curves,
    superhuman_of,
)
from plasticity_rl.study.statistics import median_of


def curve(*values: float) -> Curve:
    return Curve(np.arange(len(values)) * 100, np.array(values, dtype=np.float64))


def test_the_57_games():
    assert len(SCORES) == 57
    assert set(SCORES) <= set(GAMES)
    assert all(random < human for random, human in SCORES.values())


@pytest.mark.parametrize(
    ("game", "score", "expected"),
    [
        ("pong", -20.7, 0.0),
        ("pong", 14.6, 1.0),
        ("freeway", 14.8, 0.5),  # of 0 to 29.6
        ("boxing", 24.1, 2.0),  # 0.1 + 2 * 12
        ("alien", 1, (1 - 227.8) / 6899.9),  # below random: less than 0
    ],
)
def test_a_score_by_hand(game, score, expected):
    assert human_normalised(score, game) == pytest.approx(expected)


def test_the_published_mean_of_adaptive_rr():
    """Ma et al. 2024 print scores of 17 games at a replay ratio of 0.5, mean 42.3 %, median 22.6 %, 3 above human."""
    scores = {
        **{"alien": 815, "amidar": 114, "assault": 755, "asterix": 470, "bank_heist": 451, "boxing": 16},
        **{"breakout": 17, "chopper_command": 1037, "crazy_climber": 18108, "demon_attack": 1993, "enduro": 128},
        **{"freeway": 21, "kung_fu_master": 5342, "pong": -16, "road_runner": 6478, "seaquest": 390},
        "space_invaders": 388,
    }
    normal = [np.array([human_normalised(score, game)]) for game, score in scores.items()]
    assert float(mean_of(normal)) == pytest.approx(0.423, abs=0.005)  # they print scores without digits
    assert float(median_of(normal)) == pytest.approx(0.226, abs=0.005)
    assert superhuman_of(normal, 1.0) == 3


def test_aggregates_of_two_games_and_three_runs_by_hand():
    """Means 0.5 and 2: mean 1.25, median the same, one game above human though two runs of the other are too."""
    scores = [np.array([-1.0, 1.25, 1.25]), np.array([1.0, 2.0, 3.0])]
    assert float(mean_of(scores)) == pytest.approx(1.25)
    assert float(median_of(scores)) == pytest.approx(1.25)
    assert superhuman_of(scores, 1.0) == 1
    # Sorted: -1, 1, 1.25, 1.25, 2, 3, of mass 1/6; the middle half takes 0.5 of 1, 1.25 twice, 0.5 of 2: 4 / 3.
    assert float(iqm_of(scores)) == pytest.approx((0.5 + 2.5 + 1.0) / 3)


def test_several_resamples_at_once():
    """Statistics reduce the last axis: of four resamples the first and third are above 1 on both tasks."""
    one = np.array([[2.0, 2.0], [0.0, 0.0], [2.0, 2.0], [0.0, 3.0]])
    other = np.array([[2.0, 2.0], [2.0, 2.0], [2.0, 2.0], [0.0, 0.0]])
    np.testing.assert_array_equal(superhuman_of([one, other], 1.0), [2, 1, 2, 1])


def test_a_game_without_scores():
    with pytest.raises(UserError, match=r"no human score of 'pnog'. Did you mean pong\?"):
        human_normalised(1.0, "pnog")
    with pytest.raises(UserError, match="no human score of 'adventure'"):
        human_normalised(1.0, "adventure")


@pytest.mark.parametrize("task", ["cheetah_run", "minatar:breakout", "gym:Pong", "breakout"])
def test_a_task_that_is_no_atari_game(task):
    with pytest.raises(UserError, match=f"{task} is no Atari game"):
        game_of(task)


def test_curves_of_returns_become_percent_of_human():
    """Those of a task by name go by that task's scores; what is no return stays as it is."""
    loss = curve(1.0)
    found, problems = normalise_curves({"eval/return": curve(0.0, 14.8), "loss/critic": loss}, "atari:freeway")
    np.testing.assert_allclose(found["eval/return"].values, [0.0, 50.0])
    np.testing.assert_array_equal(found["eval/return"].frames, [0, 100])
    assert found["loss/critic"] is loss
    assert problems == []


def test_the_spread_of_returns_is_scaled_only():
    found, _ = normalise_curves({"eval/return_std": curve(6.0)}, "atari:boxing")
    np.testing.assert_allclose(found["eval/return_std"].values, [50.0])  # of 12


def test_a_run_of_several_games():
    """Each of its curves by game goes by that game; one over all of them that no visit has is left out."""
    whole = ["eval/return", "final/return"]
    tags = ["eval/atari:freeway/return", "eval/atari:boxing/return", "train/atari:boxing/visit_return"]
    found, problems = normalise_curves({tag: curve(12.1) for tag in [*whole, *tags]}, "atari:freeway")
    assert set(found) == set(tags)
    np.testing.assert_allclose(found["eval/atari:boxing/return"].values, [100.0])
    np.testing.assert_allclose(found["train/atari:boxing/visit_return"].values, [100.0])
    np.testing.assert_allclose(found["eval/atari:freeway/return"].values, [100 * 12.1 / 29.6])
    says = "no eval/<task>/visit_<n>/return tells which of several games it is of (atari:freeway, atari:boxing)"
    assert problems == [f"{tag}: {says}" for tag in whole]


def test_the_return_of_several_games_is_put_together_from_the_visits():
    """Freeway at frames 0 and 100 and again at 300, Boxing at 200; in percent of each game's human score."""
    curves = {
        "eval/return": Curve(np.array([0, 100, 200, 300]), np.array([0.0, 14.8, 12.1, 29.6])),
        "eval/return_std": Curve(np.array([0, 200]), np.array([2.96, 1.2])),
        "train/return": Curve(np.array([50, 250]), np.array([0.1, 5.0])),
        "train/return_std": curve(1.0),
        "eval/atari:freeway/visit_0/return": Curve(np.array([0, 100]), np.array([0.0, 14.8])),
        "eval/atari:freeway/visit_2/return": Curve(np.array([300]), np.array([29.6])),
        "eval/atari:boxing/visit_1/return": Curve(np.array([200]), np.array([12.1])),
        "train/atari:boxing/visit_1/return": Curve(np.array([50]), np.array([0.1])),
    }
    found, problems = normalise_curves(curves, "atari:freeway")
    np.testing.assert_array_equal(found["eval/return"].frames, [0, 100, 200, 300])
    np.testing.assert_allclose(found["eval/return"].values, [0.0, 50.0, 100.0, 100.0])
    np.testing.assert_allclose(found["eval/return_std"].values, [10.0, 10.0])  # of 29.6 and of 12
    np.testing.assert_array_equal(found["train/return"].frames, [50])
    np.testing.assert_allclose(found["train/return"].values, [0.0])
    assert [problem.split(":")[0] for problem in problems] == ["train/return_std"]


def test_the_evaluation_after_training_is_of_the_game_that_was_played_last():
    """Boxing, from 0.1 to 12.1: 6.1 is half of it, and 1.2 a tenth of the range."""
    curves = {
        "eval/return": Curve(np.array([0, 100, 200]), np.array([1.7, 30.5, 0.1])),
        "eval/atari:breakout/visit_0/return": Curve(np.array([0, 100]), np.array([1.7, 30.5])),
        "eval/atari:boxing/visit_1/return": Curve(np.array([200]), np.array([0.1])),
        "final/return": Curve(np.array([200]), np.array([6.1])),
        "final/return_std": Curve(np.array([200]), np.array([1.2])),
        "final/episode_steps": Curve(np.array([200]), np.array([7.0])),
    }
    for task in ("atari:breakout", "atari:boxing"):
        found, problems = normalise_curves(curves, task)
        np.testing.assert_allclose(found["final/return"].values, [50.0])
        np.testing.assert_allclose(found["final/return_std"].values, [10.0])
        assert found["final/episode_steps"] is curves["final/episode_steps"]
        assert problems == []
