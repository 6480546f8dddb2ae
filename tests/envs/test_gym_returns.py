"""What a Gymnasium environment of one's own returns is looked at, and what is wrong with it told in one line."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import fit_tiny, tiny_sac

from plasticity_rl import UserError, make_env

gym = pytest.importorskip("gymnasium")
START = np.zeros(3)


class Returns(gym.Env):
    """Returns what it is told to."""

    observation_space = gym.spaces.Box(-9, 9, (3,), np.float64)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, reset=(START, {}), step=(START, 1.0, False, False, {}), space=None, render_mode=None):
        self.of_reset, self.of_step = reset, step
        self.observation_space = space or self.observation_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.of_reset

    def step(self, action):
        return self.of_step


class Unpacks(gym.Env):
    """Has a mistake of its own, of the same kind."""

    observation_space, action_space = Returns.observation_space, Returns.action_space

    def reset(self, *, seed=None, options=None):
        return START, {}

    def step(self, action):
        first, second = START
        return first, second


PARTS = gym.spaces.Dict({"a": gym.spaces.Box(-9, 9, (2,), np.float64), "b": gym.spaces.Discrete(2)})
OF_RESET = r"reset must return \(observation, info\), but "
OF_STEP = r"step must return \(observation, reward, terminated, truncated, info\), but "
OF_SHOWN = r"reset and step must return an observation of observation_space, "
BROKEN = {
    "NoInfo": ({"reset": START}, OF_RESET + "returns a ndarray$"),
    "NoInfoOfTwo": ({"reset": np.zeros(2)}, OF_RESET + "returns a ndarray$"),
    "NoReset": ({"reset": None}, OF_RESET + "returns a NoneType$"),
    "Four": ({"step": (START, 1.0, False, {})}, OF_STEP + r"(returns 4 values$|Gymnasium says: .*expected 5, got 4)"),
    "Six": ({"step": (START, 1.0, False, False, {}, 0)}, OF_STEP + "(returns 6 values$|Gymnasium says: too many)"),
    "NoStep": ({"step": None}, OF_STEP + "(returns a NoneType$|Gymnasium says: .* NoneType)"),
    "Short": ({"reset": (np.zeros(2), {})}, OF_SHOWN + r"Box\(.*\), which is 3 numbers, but one is 2$"),
    "ShortLater": ({"step": (np.zeros(4), 1.0, False, False, {})}, OF_SHOWN + r".* 3 numbers, but one is 4$"),
    "Parts": (
        {"reset": ({"a": np.zeros(2)}, {}), "space": PARTS},
        OF_SHOWN + r"Dict\(.*\), but one is none: KeyError: 'b'$",
    ),
    "Words": ({"reset": ("abc", {})}, OF_SHOWN + r".*, but one is none: ValueError: "),
    "RewardArray": (
        {"step": (START, np.array([1.0]), False, False, {})},
        r"step returns the reward array\(\[1\.\]\); it must be one number, such as float\(reward\)",
    ),
    "RewardNone": ({"step": (START, None, False, False, {})}, r"step returns the reward None; it must be one number"),
}
for name, (values, _) in BROKEN.items():
    gym.register(f"{name}-v0", Returns, kwargs=values)
    gym.register(f"{name}-v1", Returns, kwargs=values, max_episode_steps=9)
IMAGE = gym.spaces.Box(0, 255, (6, 4, 3), np.uint8)
gym.register("Upright-v0", Returns, kwargs={"space": IMAGE, "reset": (np.zeros((3, 6, 4), np.uint8), {})})
gym.register("Fine-v1", Returns, max_episode_steps=9)
gym.register("Unpacks-v1", Unpacks, max_episode_steps=9)


def acted(env):
    return env.step(env.reset().set("action", torch.zeros(1)))["next"]


@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize("name", BROKEN)
def test_what_an_environment_must_return_is_told(name, version):
    """Of a registered time limit it is Gymnasium's wrapper that meets another number of values."""
    task, says = f"gym:{name}-{version}", BROKEN[name][1]
    with pytest.raises(UserError, match=rf"^task={task}: {says}"):
        acted(make_env(task, seed=0, observation="state"))


def test_an_image_is_that_of_the_space():
    env = make_env("gym:Upright-v0", seed=0, observation="pixels", image_size=8)
    with pytest.raises(UserError, match=rf"^task=gym:Upright-v0: {OF_SHOWN}Box.*, but one is uint8 \(3, 6, 4\)$"):
        env.reset()


def test_numbers_of_numpy_are_numbers():
    env = make_env("gym:Fine-v1", seed=0, observation="state")
    for reward in (2, np.float32(2.0), np.array(2.0), np.int64(2)):
        env._env.unwrapped.of_step = (START, reward, np.bool_(False), False, {})
        assert float(acted(env)["reward"]) == 2.0


def test_a_mistake_inside_an_environment_stays_what_it_is():
    with pytest.raises(ValueError, match=r"too many values to unpack \(expected 2") as raised:
        acted(make_env("gym:Unpacks-v1", seed=0, observation="state"))
    assert not isinstance(raised.value, UserError)


@pytest.mark.parametrize("name", ["NoInfo", "Four", "Short", "ShortLater", "RewardArray"])
def test_a_run_says_so_when_it_starts_also_where_it_begins_with_an_evaluation(name, tmp_path):
    data = {"env": make_env, "observation": "state", "action_repeat": 1, "task": f"gym:{name}-v1", "n_step": 1}
    with pytest.raises(UserError, match=rf"^task=gym:{name}-v1: (reset|step) "):
        fit_tiny(tmp_path, data_options=data, make_agent=tiny_sac, max_frames=100)
