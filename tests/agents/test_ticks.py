"""Several env steps in one batch of Lightning's loop: the same run, whatever the length, and wherever it is stopped."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import torch
from helpers import fit_tiny, tiny_data, weights_hash
from run_state import callback_states, differences, run_state

import callbacks
from plasticity_rl import UserError
from plasticity_rl.callback import RLCallback
from plasticity_rl.data.ticks import recount
from plasticity_rl.run.stop_signals import StopRun


def ticking(folder, env_steps_per_tick: int, **options: Any) -> Any:
    data = {"env_steps_per_tick": env_steps_per_tick, **options.pop("data_options", {})}
    return fit_tiny(folder, data_options=data, **options)


def state(agent: Any) -> dict[str, Any]:
    """Return everything but the count of ticks."""
    found = run_state(agent)
    found["checkpoint"].pop("loops")
    found["attributes"].pop("tick_from")
    return found


def given() -> list[RLCallback]:
    return [
        callbacks.Reset(modules=["actor"], every_n_frames=60),
        callbacks.ShrinkAndPerturb(modules=["critic"], at_frames=[90, 149]),
        callbacks.FractionActiveUnits(every_n_updates=7),
    ]


@pytest.fixture(scope="module")
def step_by_step(tmp_path_factory):
    some = given()
    return fit_tiny(tmp_path_factory.mktemp("one"), callbacks=some, max_frames=250), some


@pytest.mark.parametrize("length", [5, 50])
def test_the_length_changes_no_number(length, step_by_step, tmp_path):
    one, theirs = step_by_step
    mine = given()
    agent = ticking(tmp_path, length, callbacks=mine, max_frames=250)  # 250 is in the middle of a tick of 50
    assert differences(state(one), state(agent)) == []
    assert callback_states(theirs) == callback_states(mine)
    assert agent.env_frames == 250
    assert [frames for frames, _ in agent.eval_returns] == [0, 100, 200, 250]
    assert agent.num_updates == (250 - 40) // 4  # (env steps past the seed phase) * 0.5
    assert agent.event_counts == one.event_counts
    assert agent.trainer.num_training_batches == 50 // length


@pytest.mark.parametrize("replay_ratio", [1 / 3, 2.0])
def test_the_replay_ratio_is_exact(replay_ratio, tmp_path):
    options = {"agent_options": {"replay_ratio": replay_ratio}, "data_options": {"num_envs": 2}, "max_frames": 200}
    one, many = (ticking(tmp_path / str(length), length, **options) for length in (1, 25))
    assert many.num_updates == one.num_updates == int(80 * replay_ratio)  # of 160 frames, action repeat 2
    assert many.update_credit == one.update_credit
    assert weights_hash(many) == weights_hash(one)


class Asks(RLCallback):
    """Asks the run to stop, as Ctrl-C and a scheduler do."""

    def __init__(self, at_frame: int) -> None:
        self.at_frame = at_frame

    def on_env_step(self, agent, step) -> None:
        if agent.env_frames == self.at_frame:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("before", "stopped_at", "after"),
    [
        (5, 130, 5),  # asked in the tick from 120 to 130 frames
        (5, 130, 1),
        (1, 122, 25),  # 11 env steps of the epoch are done: 14 are left of its first tick, then 25
        (10, 140, 25),  # 20 are done
        (25, 150, 10),  # 25 are done: 5 are left of the third of 10
        (50, None, 5),  # the tick ends with an evaluation, after which it stops
    ],
)
def test_a_stopped_run_goes_on_exactly_also_in_ticks_of_another_length(
    before, stopped_at, after, step_by_step, tmp_path
):
    one, _ = step_by_step
    with pytest.raises(StopRun):
        ticking(tmp_path, before, callbacks=[*given(), Asks(122)], max_frames=250)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["rl"]["env_frames"] == (stopped_at or 200)
    resumed = ticking(tmp_path, after, callbacks=given(), max_frames=250, ckpt_path="last")
    assert differences(state(one), state(resumed)) == []
    assert [frames for frames, _ in resumed.eval_returns] == [0, 100, 200, 250]


def test_a_run_that_ended_goes_on_in_ticks_of_another_length(step_by_step, tmp_path):
    one, _ = step_by_step
    ticking(tmp_path, 5, callbacks=given(), max_frames=100)
    resumed = ticking(tmp_path, 50, callbacks=given(), max_frames=250, ckpt_path="last")
    assert differences(state(one), state(resumed)) == []


def test_a_run_that_ended_inside_a_tick_goes_on_with_the_rest_of_it(tmp_path):
    ticking(tmp_path, 25, max_frames=130)
    resumed = ticking(tmp_path, 25, max_frames=180, ckpt_path="last")
    assert resumed._tick_from == 75  # from 65 to 75, then to 90
    assert weights_hash(resumed) == weights_hash(fit_tiny(tmp_path / "straight", max_frames=180))


def test_logs_come_at_ticks_and_zeros_of_events_too(tmp_path):
    agent = ticking(tmp_path, 5, max_frames=100, callbacks=given())
    agent._tick_from, agent.env_steps = 10, 15
    assert [agent.every_in_tick(steps) for steps in (1, 3, 4, 7, 10, 15)] == [True, True, True, True, False, True]


def test_evaluations_lie_between_ticks():
    says = r"^eval_every_n_frames=100 must be a multiple of action_repeat \* num_envs \* env_steps_per_tick=7 = 14$"
    with pytest.raises(UserError, match=says):
        tiny_data(env_steps_per_tick=7)
    with pytest.raises(UserError, match=r"\* 2 ranks \* env_steps_per_tick=50 = 200$"):
        tiny_data(env_steps_per_tick=50).refuse_uneven(2)
    with pytest.raises(UserError, match=r"env_steps_per_tick=0 must be a whole number >= 1"):
        tiny_data(env_steps_per_tick=0)


def test_tasks_change_between_ticks(tmp_path):
    tasks = callbacks.ContinualTasks(tasks=["tiny", "tiny_far"], every_n_frames=50)
    with pytest.raises(UserError, match=r"every_n_frames=50 must be a multiple of .* \* env_steps_per_tick=50 = 100"):
        ticking(tmp_path, 50, callbacks=[tasks])


@pytest.mark.parametrize(
    ("ready", "completed", "over", "expected"),
    [
        (3, 2, False, (1, 0, 5)),  # 15 steps: a tick of 10 and half of one; saved when it was not counted yet
        (4, 3, False, (2, 1, 10)),  # 20 steps: whole ticks
        (1, 0, False, (0, -1, 5)),
        (10, 10, False, (5, 5, 10)),  # before or in an evaluation
        (10, 10, True, (5, 5, 7)),  # after it; ticks end at multiples of 10, and 63 steps were done
        (5, 5, True, (2, 2, 7)),  # a run that ended in the middle of an epoch
    ],
)
def test_progress_in_ticks_of_another_length(ready, completed, over, expected):
    done = {"ready": ready, "completed": completed, "started": ready, "processed": ready}
    epochs = {"ready": 2, "started": 2, "processed": 2 if over else 1, "completed": 1}
    loops = {"fit_loop": {"epoch_progress": {"total": epochs}, "epoch_loop.batch_progress": {"current": done}}}
    first = recount(loops, env_steps=63, before=5, now=10)
    assert (done["ready"], done["completed"], first) == expected
    assert done["started"] == done["processed"] == done["ready"]
