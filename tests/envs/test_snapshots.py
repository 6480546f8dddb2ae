"""Snapshots: stepping on after a load, in another environment, is bit-identical to not stopping."""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.parameter import UninitializedBuffer
from torchrl.envs import CatFrames, EnvBase, GymLikeEnv, TransformedEnv

from plasticity_rl.envs import make_env
from plasticity_rl.envs.dmc import DMCEnv
from plasticity_rl.envs.dmc_options import DMControlOptions
from plasticity_rl.envs.make import render_frame
from plasticity_rl.envs.snapshots import Simulator, env_state_dict, load_env_state_dict
from plasticity_rl.errors import UserError

FAST_TASKS = (
    "cartpole_swingup", "finger_turn_hard", "fish_swim", "humanoid_run", "lqr_lqr_2_1", "point_mass_hard",
    "quadruped_walk", "reacher_hard", "walker_run",
)  # fmt: skip
RESET_AFTER = 6  # steps into each stretch: both sides cross a reset


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def play(env: EnvBase, steps: int, actions: np.random.RandomState) -> list[dict[str, torch.Tensor]]:
    """Step with random actions, reset once on the way, return all that was observed."""
    seen, now = [], env.fake_tensordict()
    limit = 0.01 if env.task_name.startswith("lqr") else 1.0  # it has no bounds of its own and diverges
    for i in range(steps):
        action = actions.uniform(-limit, limit, env.action_spec.shape).astype(np.float32)
        now = env.step(now.set("action", torch.from_numpy(action)))["next"]
        seen.append({str(key): now[key].clone() for key in now.keys()})  # noqa: SIM118 - a TensorDict iterates rows
        if i == RESET_AFTER or now["done"].any():
            now = env.reset()
            seen.append({str(key): now[key].clone() for key in now.keys()})  # noqa: SIM118
    return seen


def check_continuation(steps_before: int, steps_after: int, task: str, **options: Any) -> dict[str, Any]:
    original = make_env(task, seed=1, **options)
    original.reset()
    play(original, steps_before, np.random.RandomState(0))
    state = through_a_file(env_state_dict(original))
    expected = play(original, steps_after, np.random.RandomState(1))
    original.close()

    other = make_env(task, seed=99, **options)  # another seed: nothing may come from how it was built
    load_env_state_dict(other, state)
    found = play(other, steps_after, np.random.RandomState(1))
    other.close()
    for i, (a, b) in enumerate(zip(expected, found, strict=True)):
        for key, value in a.items():
            assert torch.equal(value, b[key]), f"{task}: {key} differs {i} steps after the load"
    return state


@pytest.mark.parametrize("task", FAST_TASKS)
def test_state_env_continues_exactly(task: str) -> None:
    state = check_continuation(10, 20, task, observation="state")
    assert state["simulator"]["task_name"] == task


@pytest.mark.slow
@pytest.mark.parametrize("task", DMControlOptions.task_names())
def test_every_task_continues_exactly(task: str) -> None:
    check_continuation(40, 100, task, observation="state")


@pytest.mark.parametrize(("task", "render"), [("finger_turn_hard", "exact"), ("walker_run", "fast")])
def test_pixels_continue_exactly_in_the_middle_of_a_frame_stack(task: str, render: str) -> None:
    check_continuation(RESET_AFTER + 2, 9, task, render=render)  # one step after a reset: two of three frames equal


def test_changed_terrain_is_drawn_after_a_load() -> None:
    """Its heights live in the model and, as a copy, on the graphics card."""
    check_continuation(1, 3, "quadruped_escape", render="fast", image_size=32)


@pytest.mark.parametrize("observation", ["state", "pixels"])
def test_manipulation_continues_exactly(observation: str) -> None:
    check_continuation(8, 10, "reach_duplo", observation=observation, render="fast", image_size=32)


def test_frames_after_loading_a_manipulation_episode() -> None:
    """Composer frees the old model at a reset; what draws must not hold on to it."""
    env = make_env("reach_site", seed=0, render="fast", image_size=32)
    env.reset()
    state = env_state_dict(env)
    load_env_state_dict(env, state)
    assert render_frame(env, 16, 16).std() > 0
    assert env.rand_step()["next", "pixels"].float().std() > 0
    env.close()


def test_several_envs_continue_exactly() -> None:
    check_continuation(8, 12, "reacher_hard", num_envs=2, render="fast", image_size=24)


def test_a_snapshot_is_independent_and_loads_twice() -> None:
    env = make_env("walker_run", seed=0, render="fast", image_size=24)
    env.reset()
    play(env, 3, np.random.RandomState(0))
    state = env_state_dict(env)
    kept = copy.deepcopy(state)
    first = play(env, 5, np.random.RandomState(1))
    load_env_state_dict(env, state)  # back in time, in the same environment
    second = play(env, 5, np.random.RandomState(1))
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert str(kept) == str(state)


def test_before_the_first_reset() -> None:
    saved = make_env("walker_run", seed=3, render="fast", image_size=24)
    state = through_a_file(env_state_dict(saved))
    other = make_env("walker_run", seed=4, render="fast", image_size=24)
    other.rollout(2)
    load_env_state_dict(other, state)
    assert torch.equal(saved.reset()["pixels"], other.reset()["pixels"])


def test_small_snapshots() -> None:
    env = make_env("walker_run", seed=0, observation="state")
    env.reset()
    file = io.BytesIO()
    torch.save(env_state_dict(env), file)
    assert len(file.getvalue()) < 20_000


def test_other_task_other_count_other_size_are_refused() -> None:
    options = {"seed": 0, "render": "fast", "image_size": 16}
    walker = make_env("walker_run", **options)
    walker.reset()
    state = env_state_dict(walker)
    with pytest.raises(UserError, match=r"walker_run.*cartpole_swingup"):
        load_env_state_dict(make_env("cartpole_swingup", **options), state)
    larger = make_env("walker_run", **{**options, "image_size": 17})
    larger.reset()
    with pytest.raises(UserError, match=r"\(9, 16, 16\).*\(9, 17, 17\).*image_size"):
        load_env_state_dict(larger, state)
    two = make_env("walker_run", **options, num_envs=2)
    with pytest.raises(UserError, match="num_envs"):
        load_env_state_dict(two, state)
    three = make_env("walker_run", **options, num_envs=3)
    with pytest.raises(UserError, match=r"2 environments.*num_envs=3"):
        load_env_state_dict(three, env_state_dict(two))


def test_an_env_without_the_protocol_is_refused() -> None:
    class Unsaveable(DMCEnv):
        simulator_state = None  # type: ignore[assignment]

    env = Unsaveable("walker_run", seed=0, image_size=None)
    with pytest.raises(UserError, match=r"Unsaveable.*simulator_state"):
        env_state_dict(env)
    assert isinstance(DMCEnv("walker_run", seed=0, image_size=None), Simulator)


def test_catframes_keeps_its_stack_in_a_buffer() -> None:
    """If TorchRL moves the stack elsewhere, snapshots would silently lose it."""
    env = make_env("walker_run", seed=0, render="fast", image_size=16)
    assert isinstance(env, TransformedEnv)
    assert not isinstance(env, GymLikeEnv)
    transform = env.transform
    assert any(isinstance(module, CatFrames) for module in transform.modules())
    assert all(isinstance(buffer, UninitializedBuffer) for buffer in transform.buffers())
    pixels = env.reset()["pixels"]
    buffers = list(transform.buffers())
    assert len(buffers) == 1, "CatFrames no longer has exactly one buffer"
    assert torch.equal(buffers[0], pixels)
