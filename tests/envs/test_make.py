"""The DeepMind Control environments: equal to the DrQ-v2 stack bit for bit, seeds, options, drawing, closing."""

from __future__ import annotations

import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torchrl.envs import EnvBase, SerialEnv, TransformedEnv
from torchrl.envs.utils import check_env_specs

from plasticity_rl.envs import make, make_env, task_names
from plasticity_rl.envs.dmc import (  # not from dm_control, which would choose a backend first
    DMCEnv,
    manipulation,
    suite,
)
from plasticity_rl.envs.dmc_options import DMControlOptions
from plasticity_rl.envs.make import check_task, render_frame
from plasticity_rl.errors import UserError


def base(env: EnvBase) -> DMCEnv:
    env = env.base_env if isinstance(env, TransformedEnv) else env
    assert isinstance(env, DMCEnv)
    return env


def shorten(dm_env: Any, steps: int) -> None:
    """Make episodes ``steps`` simulator steps long."""
    assert hasattr(dm_env, "_step_limit"), "dm_control renamed Environment._step_limit, which these tests use"
    dm_env._step_limit = steps


def actions(env: EnvBase, count: int, seed: int = 0) -> Iterator[torch.Tensor]:
    generator = np.random.RandomState(seed)
    for _ in range(count):
        yield torch.from_numpy(generator.uniform(-1, 1, env.action_spec.shape).astype(np.float32))


class PlainReference:
    """What the DrQ-v2 paper's stack computes, written again from its description on bare dm_control."""

    def __init__(self, domain: str, task: str, repeat: int, stack: int, seed: int) -> None:
        self.env = suite.load(domain, task, task_kwargs={"random": seed})
        self.repeat, self.frames = repeat, deque[np.ndarray](maxlen=stack)
        self.camera = 2 if domain == "quadruped" else 0

    def pixels(self) -> np.ndarray:
        frame = self.env.physics.render(84, 84, camera_id=self.camera)  # in the default 640 x 480 frame buffer
        self.frames.append(frame.transpose(2, 0, 1))
        return np.concatenate(self.frames)

    def reset(self) -> np.ndarray:
        self.env.reset()
        for _ in range(self.frames.maxlen or 0):
            stack = self.pixels()
        return stack

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.float32, float, bool]:
        spec = self.env.action_spec()
        low, high = spec.minimum.astype(np.float32), spec.maximum.astype(np.float32)
        scaled = (low + (high - low) / 2.0 * (action.astype(np.float64) + 1.0)).astype(np.float32)
        total, discount = 0.0, 1.0
        for _ in range(self.repeat):
            time_step = self.env.step(scaled.astype(np.float64))
            total, discount = total + time_step.reward * discount, discount * time_step.discount
            if time_step.last():
                break
        return self.pixels(), np.float32(total), discount, time_step.last()


@pytest.mark.parametrize("name", ["walker_run", "cartpole_swingup", "quadruped_walk", "finger_turn_hard"])
def test_pixels_rewards_discounts_and_resets_equal_the_reference(name: str) -> None:
    domain, task = name.split("_", 1)
    env, reference = make_env(name, seed=7), PlainReference(domain, task, repeat=2, stack=3, seed=7)
    shorten(base(env)._dm_env, 9)  # odd: the last repeat of an episode is cut short
    shorten(reference.env, 9)
    now, expected = env.reset(), reference.reset()
    assert np.array_equal(now["pixels"], expected)
    episodes = 0
    for action in actions(env, 12):
        now = env.step(now.set("action", action))["next"]
        pixels, reward, discount, last = reference.step(action.numpy())
        assert np.array_equal(now["pixels"], pixels)
        assert now["reward"].numpy() == reward
        assert now["discount"].item() == discount
        assert now["done"].item() == last
        if last:
            episodes += 1
            now, expected = env.reset(), reference.reset()
            assert np.array_equal(now["pixels"], expected)
    assert episodes == 2
    reference.env.physics.free()
    env.close()


def test_manipulation_pixels_equal_dm_control() -> None:
    env, plain = make_env("reach_duplo", seed=3, action_repeat=1), manipulation.load("reach_duplo_vision", seed=3)
    now, time_step = env.reset(), plain.reset()
    for action in actions(env, 2):
        assert np.array_equal(now["pixels"][-3:], time_step.observation["front_close"][0].transpose(2, 0, 1))
        low, high = plain.action_spec().minimum, plain.action_spec().maximum
        now = env.step(now.set("action", action))["next"]
        time_step = plain.step((low + (high - low) / 2 * (action.numpy() + 1.0)).astype(np.float32).astype(np.float64))
        assert now["reward"].numpy() == np.float32(time_step.reward)
    plain.close()
    env.close()


def test_state_observation_is_the_flat_dm_control_observation() -> None:
    env, plain = make_env("walker_run", seed=5, action_repeat=1, observation="state"), suite.load("walker", "run")
    plain.task._random = np.random.RandomState(5)
    now, time_step = env.reset(), plain.reset()
    for action in actions(env, 5):
        flat = np.concatenate([np.ravel(value) for value in time_step.observation.values()]).astype(np.float32)
        assert np.array_equal(now["state"], flat)
        now, time_step = env.step(now.set("action", action))["next"], plain.step(action.numpy().astype(np.float64))


@pytest.mark.parametrize(("ends_at", "terminated"), [("limit", False), ("task", True)])
def test_discount_is_zero_only_at_a_true_termination(ends_at: str, terminated: bool, monkeypatch: Any) -> None:
    env = make_env("walker_run", seed=0, action_repeat=4, observation="state")
    dm_env = base(env)._dm_env
    if ends_at == "limit":
        shorten(dm_env, 2)
    else:
        monkeypatch.setattr(dm_env.task, "get_termination", lambda physics: 0.0 if physics.time() > 0.03 else None)
    step = env.rand_step(env.reset())["next"]
    assert step["done"].item()
    assert step["terminated"].item() is terminated
    assert step["truncated"].item() is not terminated
    assert step["discount"].item() == (0.0 if terminated else 1.0)


def test_step_after_the_end_says_to_reset() -> None:
    env = make_env("walker_run", seed=0, observation="state")
    shorten(base(env)._dm_env, 2)
    now = env.rand_step(env.reset())["next"]
    with pytest.raises(RuntimeError, match="call reset"):
        env.rand_step(now)


@pytest.mark.parametrize(
    "options",
    [
        {"image_size": 32},
        {"observation": "state"},
        {"num_envs": 2, "image_size": 32, "render": "fast", "frame_stack": 2},
    ],
)
def test_specs_and_keys(options: dict[str, Any]) -> None:
    env = make_env("cartpole_swingup", seed=0, **options)
    check_env_specs(env)
    observed = options.get("observation", "pixels")
    rollout = env.rollout(2)
    assert set(rollout["next"].keys()) == {observed, "reward", "discount", "done", "terminated", "truncated"}
    batch = (2,) if options.get("num_envs") else ()
    assert rollout["next", "reward"].shape == (*batch, 2, 1)
    if observed == "pixels":
        assert rollout["pixels"].shape == (*batch, 2, 3 * options.get("frame_stack", 3), 32, 32)
        assert rollout["pixels"].dtype == torch.uint8
    assert rollout["action"].dtype == rollout["next", "reward"].dtype == torch.float32
    assert (env.task_name, env.action_repeat) == ("cartpole_swingup", 2)
    env.close()


def test_set_seed_resets_nothing_and_fixes_the_next_episode() -> None:
    first, second = (make_env("finger_turn_hard", seed=s, observation="state") for s in (1, 2))
    before = torch.get_rng_state()
    first.rollout(5)
    first.set_seed(11)
    simulator_time = base(first)._dm_env.physics.time()
    assert simulator_time > 0
    second.set_seed(11)
    assert torch.equal(first.reset()["state"], second.reset()["state"])
    torch.set_rng_state(before)
    first.set_seed(12)
    assert torch.equal(torch.get_rng_state(), before)


def test_several_envs_are_seeded_one_by_one() -> None:
    several = make_env("reacher_hard", seed=4, observation="state", num_envs=2)
    singles = [make_env("reacher_hard", seed=4 + i, observation="state") for i in range(2)]
    assert torch.equal(several.reset()["state"], torch.stack([env.reset()["state"] for env in singles]))
    threads = torch.get_num_threads()
    assert several.set_seed(20) == 22
    for i, env in enumerate(singles):
        env.set_seed(20 + i)
    assert torch.equal(several.reset()["state"], torch.stack([env.reset()["state"] for env in singles]))
    several.close()
    assert torch.get_num_threads() == threads


def test_fast_drawing_changes_pixels_only() -> None:
    exact, fast = (make_env("walker_run", seed=0, render=render) for render in ("exact", "fast"))
    a, b = exact.reset(), fast.reset()
    assert not torch.equal(a["pixels"], b["pixels"])
    assert (a["pixels"].float() - b["pixels"].float()).abs().mean() < 25  # the same scene
    action = next(actions(exact, 1))
    a, b = (env.step(now.set("action", action))["next"] for env, now in ((exact, a), (fast, b)))
    assert torch.equal(a["reward"], b["reward"])
    assert base(fast)._dm_env.physics.model.vis.global_.offwidth == 84


def test_render_frame_draws_any_size_and_leaves_observations_alone() -> None:
    watched, plain = (make_env("walker_run", seed=0, image_size=24, render="fast") for _ in range(2))
    a, b = watched.reset(), plain.reset()
    for action in actions(watched, 3):
        frame = render_frame(watched, 40, 60)
        assert frame.shape == (40, 60, 3)
        assert frame.dtype == np.uint8
        assert frame.std() > 0
        a, b = (env.step(now.set("action", action))["next"] for env, now in ((watched, a), (plain, b)))
        assert torch.equal(a["pixels"], b["pixels"])
    with pytest.raises(UserError, match="make_env"):
        render_frame(object())  # type: ignore[arg-type]


def test_render_frame_of_one_of_several_and_of_a_state_env() -> None:
    several = make_env("reacher_hard", seed=4, num_envs=2, observation="state")
    several.reset()
    frames = [render_frame(several, 32, 32, index=i) for i in range(2)]
    assert not np.array_equal(*frames)  # other targets
    several.close()


def test_close_frees_the_contexts_and_may_be_repeated() -> None:
    env = make_env("walker_run", seed=0, image_size=16)
    physics = base(env)._dm_env.physics
    assert physics._contexts is not None
    env.close()
    assert physics._contexts is None
    base(env).close()


def test_exit_without_close_is_silent() -> None:
    code = "from plasticity_rl.envs import make_env; env = make_env('walker_run', seed=0, image_size=16); env.reset()"
    code += "; import sys; assert not {'ale_py', 'minatar'} & set(sys.modules), 'of no use to this task'"
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert "Exception ignored" not in run.stderr, run.stderr
    assert "Traceback" not in run.stderr, run.stderr


def test_names_and_their_errors() -> None:
    assert {"walker_run", "cup_catch", "reach_duplo", "humanoid_CMU_run", "point_mass_easy"} <= set(task_names())
    check_task("cup_catch")
    with pytest.raises(UserError, match=r"'ball_in_cup_catch'.*Did you mean cup_catch\?"):
        check_task("ball_in_cup_catch")
    with pytest.raises(UserError, match=r"'walker_runn'.*walker_run"):
        make_env("walker_runn", seed=0)


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("action_repeat", 0, ">= 1"),
        ("frame_stack", 0, ">= 1"),
        ("image_size", -1, ">= 1"),
        ("num_envs", 0, ">= 1"),
        ("seed", -1, "from 0"),
        ("render", "nice", "one of .'exact', 'fast'"),
        ("camera_id", 9, "-1 "),
    ],
)
def test_bad_options_are_named(option: str, value: Any, allowed: str) -> None:
    with pytest.raises(UserError, match=f"{option}={value!r}.*{allowed}"):
        make_env("walker_run", **{"seed": 0, option: value})


def test_private_names_of_dm_control_and_torchrl_exist() -> None:
    """Each of these is used in envs/dmc.py, machine/rendering.py or envs/snapshots.py."""
    from dm_control import composer
    from dm_control.rl import control

    env = suite.load("walker", "run", task_kwargs={"random": 0})
    for owner, names in (
        (env.physics, ("_contexts", "_contexts_lock", "_free_rendering_contexts")),
        (env.task, ("_random",)),
        (env, ("_step_count", "_reset_next_step")),
    ):
        for name in names:
            assert hasattr(owner, name), f"dm_control's {type(owner).__name__} no longer has {name}"
    assert isinstance(env, control.Environment)
    reach = manipulation.load("reach_site_features", seed=0)
    assert isinstance(reach, composer.Environment)
    for name in ("_random_state", "_reset_next_step"):
        assert hasattr(reach, name), f"dm_control's composer.Environment no longer has {name}"
    several = make_env("walker_run", seed=0, observation="state", num_envs=2)
    several.reset()
    assert isinstance(several, SerialEnv)
    assert len(getattr(several, "_envs", ())) == 2, "TorchRL's SerialEnv no longer keeps its environments in _envs"


@pytest.mark.slow
@pytest.mark.parametrize("name", DMControlOptions.task_names())
def test_every_task_builds_and_steps(name: str) -> None:
    env = make_env(name, seed=0, image_size=24, render="fast")
    rollout = env.rollout(2)
    assert rollout["pixels"].float().std() > 0
    assert torch.isfinite(rollout["next", "reward"]).all()
    env.close()


def test_module_exports_the_promised_names() -> None:
    assert {"make_env", "task_names", "check_task", "render_frame"} <= set(vars(make))


@pytest.mark.parametrize(("task", "action_repeat", "expected"), [("cartpole_swingup", 8, 125), ("reach_duplo", 2, 125)])
def test_an_environment_says_how_long_its_episodes_are(task, action_repeat, expected):
    """1000 frames of the suite; 10 seconds of 0.04 of manipulation. From private attributes of dm_control."""
    env = make_env(task, seed=0, action_repeat=action_repeat, observation="state")
    assert env.episode_steps == expected
