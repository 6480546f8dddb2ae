"""Human-normalised scores of Atari games: 0 is an agent of random actions, 1 a professional human tester.

Scores of games differ by orders of magnitude; normalised they can be averaged over games. Of several games one prints
mean, median, IQM (``results/statistics.py``, ``study/statistics.py``) and how many are above human level.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from plasticity_rl.errors import UserError, suggestion

if TYPE_CHECKING:
    from plasticity_rl.results.runs import Curve
    from plasticity_rl.results.statistics import Scores

PREFIX = "atari:"
PERCENT = 100.0
"""Reports print the normalised score in percent: what papers print too, and what has as many digits as a return."""
SCORES: Mapping[str, tuple[float, float]] = {
    "alien": (227.8, 7127.7),
    "amidar": (5.8, 1719.5),
    "assault": (222.4, 742.0),
    "asterix": (210.0, 8503.3),
    "asteroids": (719.1, 47388.7),
    "atlantis": (12850.0, 29028.1),
    "bank_heist": (14.2, 753.1),
    "battle_zone": (2360.0, 37187.5),
    "beam_rider": (363.9, 16926.5),
    "berzerk": (123.7, 2630.4),
    "bowling": (23.1, 160.7),
    "boxing": (0.1, 12.1),
    "breakout": (1.7, 30.5),
    "centipede": (2090.9, 12017.0),
    "chopper_command": (811.0, 7387.8),
    "crazy_climber": (10780.5, 35829.4),
    "defender": (2874.5, 18688.9),
    "demon_attack": (152.1, 1971.0),
    "double_dunk": (-18.6, -16.4),
    "enduro": (0.0, 860.5),
    "fishing_derby": (-91.7, -38.7),
    "freeway": (0.0, 29.6),
    "frostbite": (65.2, 4334.7),
    "gopher": (257.6, 2412.5),
    "gravitar": (173.0, 3351.4),
    "hero": (1027.0, 30826.4),
    "ice_hockey": (-11.2, 0.9),
    "jamesbond": (29.0, 302.8),
    "kangaroo": (52.0, 3035.0),
    "krull": (1598.0, 2665.5),
    "kung_fu_master": (258.5, 22736.3),
    "montezuma_revenge": (0.0, 4753.3),
    "ms_pacman": (307.3, 6951.6),
    "name_this_game": (2292.3, 8049.0),
    "phoenix": (761.4, 7242.6),
    "pitfall": (-229.4, 6463.7),
    "pong": (-20.7, 14.6),
    "private_eye": (24.9, 69571.3),
    "qbert": (163.9, 13455.0),
    "riverraid": (1338.5, 17118.0),
    "road_runner": (11.5, 7845.0),
    "robotank": (2.2, 11.9),
    "seaquest": (68.4, 42054.7),
    "skiing": (-17098.1, -4336.9),
    "solaris": (1236.3, 12326.7),
    "space_invaders": (148.0, 1668.7),
    "star_gunner": (664.0, 10250.0),
    "surround": (-10.0, 6.5),
    "tennis": (-23.8, -8.3),
    "time_pilot": (3568.0, 5229.2),
    "tutankham": (11.4, 167.6),
    "up_n_down": (533.4, 11693.2),
    "venture": (0.0, 1187.5),
    "video_pinball": (16256.9, 17667.9),
    "wizard_of_wor": (563.5, 4756.5),
    "yars_revenge": (3092.9, 54576.9),
    "zaxxon": (32.5, 9173.3),
}
"""Game -> score of random actions, and of a human; starts after 1 to 30 no-ops, 30 minutes of play at most.

google-deepmind/dqn_zoo, ``dqn_zoo/atari_data.py``. Those of Dopamine, ``labs/atari_100k/normalization_utils.py``, are
the same, but for random actions on Video Pinball (0 there) and the human scores of Defender and Surround (none there).
"""
RETURN_TAG = re.compile(
    r"(?P<when>train|eval|final)/(?:(?P<task>[^/]+)/(?P<visit>visit_\d+/)?)?(?P<kind>return|return_std|visit_return)"
)
"""Curves of returns, with the task in those of several tasks, and the visit in those of one."""
UNIT = "percent of human score"
"""Of curves of returns, once they are normalised."""
Number = TypeVar("Number", float, Any)


def game_of(task: str) -> str:
    """Return the game of a task ``atari:<game>``.

    Raises:
        UserError: When the task is another one, or the game has no human score.
    """
    if not task.startswith(PREFIX):
        raise UserError(f"{task} is no Atari game ({PREFIX}<game>), so there is no human score of it")
    game = task.removeprefix(PREFIX)
    _scores_of(game)
    return game


def human_normalised(score: Number, game: str) -> Number:
    """Return ``(score - random) / (human - random)``: 0 for random actions, 1 for a human, beyond for better ones.

    Args:
        score: Undiscounted return of whole games, not clipped; a number or an array.
        game: Name of the game, ``ms_pacman``.

    Raises:
        UserError: When the game has no human score.
    """
    random, human = _scores_of(game)
    return (score - random) / (human - random)


def _scores_of(game: str) -> tuple[float, float]:
    if game not in SCORES:
        raise UserError(f"there is no human score of {game!r}.{suggestion(game, SCORES)} There are {len(SCORES)}")
    return SCORES[game]


def superhuman_of(scores: Scores, human: float) -> Any:
    """Return on how many games the mean over runs is above human level.

    Args:
        scores: ``(..., runs)`` for each game, normalised.
        human: Score of a human: 1, or 100 where they are in percent.
    """
    return np.sum([np.mean(one, axis=-1) > human for one in scores], axis=0)


def normalise_curves(curves: Mapping[str, Curve], task: str) -> tuple[dict[str, Curve], list[str]]:
    """Return the curves of a run with returns in percent of human level, and what had to be left out.

    Where a run goes through several games, each point of a curve over all of them, ``eval/return`` or its standard
    deviation, is normalised by the game of its visit. ``final/return`` comes with the last evaluation, so it is of the
    same game. A curve of which no visit tells the game is left out.

    Args:
        curves: By tag.
        task: ``atari:<game>``.

    Raises:
        UserError: When a game has no human score.
    """
    found = {tag: match for tag in curves if (match := RETURN_TAG.fullmatch(tag))}
    others = sorted({match["task"] for match in found.values() if match["task"]} - {task})
    normal = {tag: curve for tag, curve in curves.items() if tag not in found}
    problems = []
    for tag, match in found.items():
        curve, kind = curves[tag], match["kind"]
        if match["task"] or not others:
            normal[tag] = replace(curve, values=_percent(curve.values, match["task"] or task, kind))
            continue
        when = "train" if match["when"] == "train" else "eval"
        tasks = _tasks_by_frame(when, curves, found)
        known = np.array([frame in tasks for frame in curve.frames.tolist()])
        if known.any():
            points = zip(curve.frames[known].tolist(), curve.values[known], strict=True)
            scores = [_percent(value, tasks[frame], kind) for frame, value in points]
            normal[tag] = replace(curve, frames=curve.frames[known], values=np.array(scores))
        else:
            games = ", ".join([task, *others])
            problems.append(f"{tag}: no {when}/<task>/visit_<n>/return tells which of several games it is of ({games})")
    return normal, problems


def _percent(values: Number, task: str, kind: str) -> Number:
    game = game_of(task)
    zero = human_normalised(0.0, game) if kind == "return_std" else 0.0
    return PERCENT * (human_normalised(values, game) - zero)


def _tasks_by_frame(when: str, curves: Mapping[str, Curve], found: Mapping[str, re.Match[str]]) -> dict[Any, str]:
    """Return the task of each point of ``<when>/return``, which is that of the visit that has it.

    A visit may have points that are no longer true: those after the last checkpoint of a run that was killed, and then
    went on otherwise. The curve over all games does not have them.

    Args:
        when: ``train`` or ``eval``.
        curves: By tag, as they were logged.
        found: Those of returns, with what their tags say.
    """
    if (whole := curves.get(f"{when}/return")) is None:
        return {}
    logged = dict(zip(whole.frames.tolist(), whole.values.tolist(), strict=True))
    return {
        frame: match["task"]
        for tag, match in found.items()
        if match["visit"] and (match["when"], match["kind"]) == (when, "return")
        for frame, value in zip(curves[tag].frames.tolist(), curves[tag].values, strict=True)
        if frame in logged and np.array_equal(logged[frame], value, equal_nan=True)
    }
