"""Environments that step beside the updates: what stays equal, what lags, and by how much."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
import torch
from callback_examples import example
from helpers import fit_tiny, tiny_sac
from real_runs import fit_real
from run_state import DieAt, Killed, differences, replay_state, run_state
from tiny_env import TinyPixelEnv

import callbacks
from plasticity_rl import UserError, make_env
from plasticity_rl.callback import RLCallback
from plasticity_rl.data.collector import StepCollector
from plasticity_rl.errors import RunFailure

OVERLAP = {"overlap": True}


class Lag(RLCallback):
    """Notes at every update how old the policy is whose step is under way."""

    def __init__(self) -> None:
        self.updates: list[int] = []

    def on_update_end(self, agent, batch, metrics) -> None:
        self.updates.append(agent.num_updates - agent._decided_at)


def actions_of(agent) -> torch.Tensor:
    records = replay_state(agent)["records"][0]
    return records["action"][~records["terminal"]].flatten()


def test_without_updates_it_is_the_same_run(tmp_path):
    """Nothing can lag while the policy does not change."""
    options = {"agent_options": {"num_seed_frames": 190}, "data_options": {"batch_size": 8}}
    runs = [
        fit_tiny(tmp_path / str(overlap), **{**options, "data_options": {"overlap": overlap}}) for overlap in (0, 1)
    ]
    actions = [actions_of(agent) for agent in runs]
    assert torch.equal(actions[0][:96], actions[1][:96])  # updates begin at frame 190


@pytest.mark.parametrize(("ratio", "num_envs", "most"), [(0.5, 1, 1), (1, 1, 1), (2, 1, 2), (0.5, 2, 1), (1, 4, 4)])
def test_the_lag_is_the_updates_of_one_tick(ratio, num_envs, most, tmp_path):
    lag = Lag()
    agent = fit_tiny(
        tmp_path,
        callbacks=[lag],
        agent_options={"replay_ratio": ratio, "num_seed_frames": 48},
        data_options={"num_envs": num_envs, "eval_every_n_frames": 96, **OVERLAP},
        trainer_options={"log_every_n_steps": 1},
        max_frames=192,
    )
    assert agent.num_updates == len(lag.updates) == (192 - 48) // 2 * ratio
    assert max(lag.updates) == most
    assert agent.latest["clock/policy_lag_updates"] <= most


def test_actions_are_decided_before_the_updates_and_transitions_are_learned_at_once(tmp_path):
    """The first update changes the second action after it, not the first; the seed phase ends at frame 40."""

    def change_policy(agent, batch, metrics) -> None:
        if agent.num_updates == 1:
            for parameter in agent.actor.parameters():
                parameter.data.zero_()
            agent.stddev_schedule = lambda step: 0.0

    class Once(RLCallback):
        on_update_end = staticmethod(change_policy)

    plain, beside = (
        fit_tiny(tmp_path / str(o), callbacks=[Once()], agent_options={"lr": 1e-12}, data_options={"overlap": o})
        for o in (False, True)
    )
    first = [int((actions_of(agent).abs() < 1e-4).nonzero()[0]) for agent in (plain, beside)]
    assert first[1] == first[0] + 1
    assert plain.num_updates == beside.num_updates == 40
    assert plain.data.replay.num_transitions == beside.data.replay.num_transitions == 100


@pytest.mark.parametrize("storage", ["ram", "memmap"])
@pytest.mark.parametrize("ratio", [0.5, 3])
def test_a_killed_run_goes_on_exactly(storage, ratio, tmp_path):
    """The checkpoint at frame 60 is written with a step under way."""
    options = {
        "max_frames": 130,
        "agent_options": {"replay_ratio": ratio},
        "data_options": {"eval_every_n_frames": 60, "storage": storage, **OVERLAP},
    }
    given = lambda: [example(callbacks.Reset), example(callbacks.L2Init), example(callbacks.FractionActiveUnits)]  # noqa: E731
    straight = fit_tiny(tmp_path / "straight", callbacks=given(), **options)
    with pytest.raises(Killed):
        fit_tiny(tmp_path / "killed", callbacks=[*given(), DieAt(100)], **options)
    resumed = fit_tiny(tmp_path / "killed", callbacks=given(), ckpt_path="last", **options)
    assert differences(run_state(straight), run_state(resumed)) == []
    again = fit_tiny(tmp_path / "again", callbacks=given(), **options)
    assert differences(run_state(straight), run_state(again)) == []


@pytest.mark.parametrize("num_envs", [1, 2])
def test_a_run_that_is_lengthened_is_the_longer_run(num_envs, tmp_path):
    """The step after its last frame is begun there as well, with the policy before the last updates."""
    run = {"make_agent": tiny_sac, "data_options": {"observation": "state", "num_envs": num_envs, **OVERLAP}}
    whole = fit_tiny(tmp_path / "whole", **run)
    fit_tiny(tmp_path / "short", max_frames=100, **run)
    lengthened = fit_tiny(tmp_path / "short", ckpt_path="last", **run)
    assert differences(run_state(whole), run_state(lengthened)) == []


def test_tasks_change_between_finished_steps(tmp_path):
    """The step that is under way in the old task is dropped: no transition crosses the boundary, no frame is lost."""
    agent = fit_tiny(
        tmp_path,
        callbacks=[callbacks.ContinualTasks(tasks=["tiny", "tiny_away"], every_n_frames=60)],
        data_options=OVERLAP,
    )
    assert agent.env_frames == 200
    records = replay_state(agent)["records"][0]
    grey = records["pixels"][:, 0, -1, 0] == 100  # the ground of the other task
    changes = (grey[1:] != grey[:-1]).nonzero().flatten()
    assert len(changes) == 3
    assert records["terminal"][changes].all()


def test_sac_steps_beside_its_updates_too(tmp_path):
    run = {"make_agent": tiny_sac, "data_options": {"observation": "state", **OVERLAP}}
    one, two = (fit_tiny(tmp_path / str(i), **run) for i in range(2))
    assert differences(run_state(one), run_state(two)) == []
    assert one.latest["clock/policy_lag_updates"] == 1


def test_prefetched_batches_are_those_of_plain_sampling(tmp_path):
    """With a policy that does not change, runs without and with overlap see the same batches."""

    class Batches(RLCallback):
        def __init__(self) -> None:
            self.seen: list[float] = []

        def on_update_end(self, agent, batch, metrics) -> None:
            self.seen.append(float(batch["pixels"].double().mean() + batch["reward"].double().sum()))

    seen = []
    for overlap in (False, True):
        batches = Batches()
        options = {"lr": 1e-30, "replay_ratio": 3, "stddev_schedule": "0.5"}
        fit_tiny(tmp_path / str(overlap), callbacks=[batches], agent_options=options, data_options={"overlap": overlap})
        seen.append(batches.seen)
    assert seen[0] == seen[1]
    assert len(seen[0]) == 240


def test_an_environment_that_fails_in_the_thread_fails_the_run(tmp_path, monkeypatch):
    step, main = TinyPixelEnv._step, threading.main_thread()

    def fail_in_a_thread(self, tensordict):
        if threading.current_thread() is not main:
            raise RuntimeError("the simulator is gone")
        return step(self, tensordict)

    monkeypatch.setattr(TinyPixelEnv, "_step", fail_in_a_thread)
    with pytest.raises(RunFailure, match="an environment of tiny failed .*the simulator is gone"):
        fit_tiny(tmp_path, data_options=OVERLAP)


def test_a_begun_step_uses_the_policy_of_its_beginning():
    action = torch.ones(1, 1)
    collector = StepCollector(TinyPixelEnv, lambda pixels: action.clone(), in_thread=True)
    collector.begin()
    action.zero_()
    assert collector.observations().shape == (1, 3, 16, 16)
    assert collector.step()["action"].item() == 1
    assert collector.step()["action"].item() == 0
    collector.begin()
    collector.close()


def test_glfw_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("dm_control._render.BACKEND", "glfw")
    with pytest.raises(UserError, match=r"overlap=true .* set MUJOCO_GL=egl or osmesa"):
        fit_tiny(tmp_path, data_options=OVERLAP)


@pytest.mark.parametrize("in_thread", [False, True])
def test_closing_frees_the_rendering_context_where_it_was_made(in_thread):
    build = lambda: make_env("cartpole_swingup", seed=1, image_size=16, render="fast", action_repeat=8)  # noqa: E731
    collector = StepCollector(build, lambda pixels: torch.zeros(1, 1), in_thread=in_thread)
    collector.step()
    physics = collector.env.base_env._dm_env.physics
    assert physics._contexts is not None
    collector.close()
    assert physics._contexts is None


@pytest.mark.slow
def test_real_pixels(tmp_path):
    """On dm_control, whose renderer works in a thread of its own already."""
    runs = [fit_real(tmp_path / name, callbacks=[], data_options=OVERLAP) for name in ("one", "two")]
    assert runs[0].num_updates == 300
    assert runs[0].latest["clock/policy_lag_updates"] == 2
    assert differences(*map(run_state, runs)) == []


class Stop(RLCallback):
    """Raises what ends a run.

    Args:
        error: What to raise; a stop by a signal is a SystemExit.
    """

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_update_end(self, agent, batch, metrics) -> None:
        raise self.error


@pytest.mark.parametrize("error", [SystemExit(143), KeyboardInterrupt(), RuntimeError("of the user's own")], ids=repr)
def test_a_run_that_is_stopped_frees_its_environment_in_the_thread_that_drew(error, tmp_path, monkeypatch):
    """With EGL no other thread may; Lightning calls no ``teardown`` then."""
    freed = []
    close = TinyPixelEnv.close
    monkeypatch.setattr(
        TinyPixelEnv, "close", lambda env, **o: [freed.append(threading.current_thread().name), close(env, **o)]
    )
    with pytest.raises((SystemExit, RuntimeError)):
        fit_tiny(tmp_path, callbacks=[Stop(error)], data_options=OVERLAP)
    assert [name.startswith("env step") for name in freed] == [True]
    assert not [thread for thread in threading.enumerate() if thread.name in freed]


EGL = """
import signal, sys
from plasticity_rl.machine.rendering import check_rendering
from plasticity_rl.errors import UserError
try:
    check_rendering()
except UserError:
    sys.exit(77)  # no EGL here
from plasticity_rl import DrQV2, RLDataModule, make_trainer
from plasticity_rl.data.collector import StepCollector
data = RLDataModule("cartpole_swingup", image_size=32, render="fast", overlap=True)
collector = StepCollector(lambda: data._make_env(data.task, seed=1, num_envs=1), lambda o: o.new_zeros((1, 1)).float(),
                          in_thread=True)
collector.step()
collector.begin()
sys.exit(143)
"""


def test_a_process_that_ends_without_a_word_to_the_environment_is_quiet():
    command = [sys.executable, "-c", EGL]
    done = subprocess.run(command, env={**os.environ, "MUJOCO_GL": "egl"}, capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("no EGL on this machine")
    assert (done.returncode, done.stderr) == (143, "")
