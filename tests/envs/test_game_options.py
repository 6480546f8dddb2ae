"""Options of Atari and MinAtar, and what is refused: without an emulator."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from cli_runs import call

from plasticity_rl import RLDataModule, UserError, make_env
from plasticity_rl.envs import backends
from plasticity_rl.envs.atari import draw_noops
from plasticity_rl.envs.make import check_task
from plasticity_rl.envs.minatar_options import MinAtarOptions


def test_the_defaults_are_published():
    options = backends.options_class("atari:pong")()
    shown = {"task": "atari:pong", "observation": "pixels", "action_repeat": 4, "frame_stack": 4, "image_size": 84}
    start = {"full_actions": False, "sticky": 0.0, "noops": 30, "noop_unit": "frames"}
    assert options.values == options.experience == {**shown, **start, "life_loss": True, "max_episode_frames": 108_000}
    assert (options.stacked_frames, options.least_observation_bytes, options.draws) == (4, 4 * 84 * 84, False)
    small = MinAtarOptions("minatar:breakout")
    assert (small.stacked_frames, small.least_observation_bytes, small.sticky, small.action_repeat) == (1, 400, 0.1, 1)
    assert MinAtarOptions("minatar:breakout", channels=10).least_observation_bytes == 1000


@pytest.mark.parametrize(
    ("options", "frames", "mean"),
    [
        ((30, "frames"), set(range(1, 31)), 15.5),
        ((2, "frames"), {1, 2}, 1.5),
        ((30, "env_steps"), {4 * steps for steps in range(30)}, 58),
        ((1, "env_steps"), {0}, 0),
    ],
)
def test_numbers_of_no_ops_are_equally_likely(options, frames, mean):
    random = np.random.RandomState(0)
    drawn = [draw_noops(random, *options, 4) for _ in range(6000)]
    numbers, counts = np.unique(drawn, return_counts=True)
    assert set(numbers) == frames
    assert np.mean(drawn) == pytest.approx(mean, abs=0.05 * mean)
    expected = 6000 / len(frames)
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()  # a hundred thousandth of runs would fail


def test_without_no_ops_nothing_is_drawn():
    assert draw_noops(None, 0, "frames", 4) == 0


@pytest.mark.parametrize(
    ("task", "options", "says"),
    [
        ("atari:pnog", {}, r"^task='atari:pnog' is not an Atari task\. Did you mean atari:pong"),
        ("atari:MsPacman", {}, r"task='atari:MsPacman' .*Did you mean .*atari:ms_pacman"),
        ("minatar:braekout", {}, r"Did you mean minatar:breakout.* There are 5, such as minatar:breakout"),
        ("atari:pong", {"render": "fast"}, r"there is no option 'render'\. There are task, .* life_loss, "),
        ("walker_run", {"sticky": 0.25}, r"there is no option 'sticky'"),
        ("minatar:freeway", {"life_loss": False}, r"there is no option 'life_loss'"),
        (
            "atari:pong",
            {"observation": "state"},
            r"observation='state' must be .*'pixels'\]: Atari has no other",
        ),
        ("minatar:freeway", {"observation": "state"}, r"observation='state' must be .*: MinAtar has no other"),
        ("atari:pong", {"image_size": 161}, r"image_size=161 must be at most 160: .* published: 84"),
        ("atari:pong", {"sticky": 1}, r"sticky=1 must be in \[0, 1\); published: 0 or 0\.25"),
        ("atari:pong", {"noops": -1}, r"noops=-1 must be a whole number >= 0; published: 30"),
        ("atari:pong", {"noop_unit": "steps"}, r"noop_unit='steps' must be one of .* Did you mean env_steps"),
        ("atari:pong", {"life_loss": "no"}, r"life_loss='no' must be one of \[True, False\]"),
        ("atari:pong", {"max_episode_frames": 0}, r"max_episode_frames=0 must be a whole number >= 1"),
        ("minatar:seaquest", {"channels": 9}, r"channels=9 must be a whole number >= 10: minatar:seaquest has 10"),
        ("minatar:seaquest", {"difficulty_ramping": 2}, r"difficulty_ramping=2 must be one of"),
    ],
)
def test_what_is_refused(task, options, says):
    with pytest.raises(UserError, match=says) as caught:
        make_env(task, seed=0, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("task", "module", "says"),
    [
        (
            "atari:pong",
            "ale_py",
            r"atari:pong needs ale-py, which is not installed: pip .*-rl\[atari\]'",
        ),
        (
            "minatar:asterix",
            "minatar",
            r"minatar:asterix needs minatar, .*: pip .*-rl\[minatar\]', or .*--no-deps",
        ),
    ],
)
def test_a_missing_extra(task, module, says, monkeypatch):
    """Names of tasks are known without it."""
    monkeypatch.setitem(sys.modules, module, None)
    check_task(task)
    with pytest.raises(UserError, match=f"^{says}"):
        make_env(task, seed=0)
    with pytest.raises(UserError, match=f"^{says}"):
        RLDataModule(task)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--data.task=atari:pnog"], "task='atari:pnog' is not an Atari task. Did you mean atari:pong"),
        (
            ["--data.task=atari:pong"],
            "atari:pong needs ale-py, which is not installed: pip install 'plasticity-rl[atari]'",
        ),
        (["--data.task=atari:pong", "--data.render=fast"], "data.render"),
        (["--data.task=atari:pong", "--data.noops=-1"], "data.noops=-1 must be a whole number >= 0"),
    ],
)
def test_the_command_line_says_it_in_one_line(args, says, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    result = call("fit", *args, f"--trainer.default_root_dir={tmp_path}")
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    assert result.err.startswith("error: ")
    assert says in result.err
