"""An environment of one's own that agents here cannot learn in is refused by name, before the first step."""

from __future__ import annotations

import pytest
import torch
from helpers import tiny_data
from tensordict import TensorDict
from tiny_env import TinyPixelEnv
from torchrl.data import Binary, Bounded, Categorical, Composite, Unbounded

from plasticity_rl.envs.contract import require_ends, require_first_step
from plasticity_rl.errors import UserError


def shown(**specs) -> Composite:
    return Composite({"discount": Unbounded(shape=(1,)), **specs})


F64 = Unbounded(shape=(2,), dtype=torch.float64)
DONE = Binary(1, shape=(1,), dtype=torch.bool)
CASES = {
    "no discount": (
        "observation_spec",
        Composite(state=Unbounded(shape=(2,))),
        r"declares no 'discount', it has",
    ),
    "discount of two": (
        "observation_spec",
        Composite(state=Unbounded(shape=(2,)), discount=Unbounded(shape=(2,))),
        r"has a discount of shape \(2,\); it must be one number",
    ),
    "other key": (
        "observation_spec",
        shown(position=Unbounded(shape=(2,))),
        r"shows \['discount', 'position'\]",
    ),
    "float64": (
        "observation_spec",
        shown(state=F64),
        r"state of float64 \(2,\);",
    ),
    "a matrix": (
        "observation_spec",
        shown(state=Unbounded(shape=(2, 3))),
        r"float32 \(2, 3\); it must be",
    ),
    "wide actions": ("action_spec", Bounded(-2, 2, shape=(1,), dtype=torch.float32), r"in \[-2, 2\].*ActionScaling"),
    "narrow actions": ("action_spec", Bounded(0, 1, shape=(3,), dtype=torch.float32), r"actions in \[0, 1\]"),
    "free actions": ("action_spec", Unbounded(shape=(1,)), r"has actions (without bounds|in \[-)"),
    "discrete actions": (
        "action_spec",
        Categorical(4),
        r"discrete actions \(Categorical of int64, shape \(\)\).* or one whole number: torchrl.data.Categorical\(n,",
    ),
    "two rewards": ("reward_spec", Unbounded(shape=(2,)), r"has a reward of shape \(2,\)"),
    "reward by another name": (
        "full_reward_spec",
        Composite(gain=Unbounded(shape=(1,))),
        r"declares no 'reward'",
    ),
    "action by another name": (
        "full_action_spec",
        Composite(torque=Bounded(-1, 1, shape=(1,), dtype=torch.float32)),
        r"has the actions \['torque'\]; it must have one, 'action'",
    ),
    "nothing wrong": ("full_done_spec", Composite(done=DONE, terminated=DONE), ""),
}


@pytest.mark.parametrize(("name", "spec", "says"), CASES.values(), ids=CASES)
def test_specs_that_no_agent_can_use_are_refused(name, spec, says):
    def make(task, *, seed, **ignored):
        env = TinyPixelEnv(seed=seed, observation="state")
        setattr(env, name, spec)
        return env

    if not says:
        assert tiny_data(env=make, observation="state").obs_shape == (2,)
        return
    with pytest.raises(UserError, match=rf"^data\.env: the environment of task=tiny .*{says}"):
        tiny_data(env=make, observation="state")


def test_what_is_no_environment_of_torchrl_is_refused():
    with pytest.raises(UserError, match=r"^data\.env returned a dict for task=tiny, not a TorchRL env.*GymWrapper"):
        tiny_data(env=lambda task, **options: {})


STEP = {"state": torch.zeros(2), "reward": torch.ones(1), "discount": torch.ones(1)}


def stepped(**values) -> TensorDict:
    """A step of one environment, as the collector hands it on."""
    return TensorDict({"next": TensorDict({**STEP, **values}, [])}, [])[None]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, ""),
        ({"state": torch.zeros(3)}, r"declares state as float32 \(2,\), but a step returns float32 \(3,\)"),
        ({"reward": torch.ones(1).double()}, r"declares reward as float32 \(1,\), but a step returns float64"),
        ({"reward": torch.tensor([torch.nan])}, r"returns the reward \[nan\]; it must be finite"),
        ({"discount": torch.tensor([99.0])}, r"returns the discount \[99\.0\]; it must be 1, and 0 after"),
    ],
)
def test_what_the_first_step_returns_is_what_was_declared(values, says):
    env = TinyPixelEnv(observation="state")
    if not says:
        require_first_step(env, stepped(**values), "state")
        return
    with pytest.raises(UserError, match=rf"^data\.env: the environment {says}"):
        require_first_step(env, stepped(**values), "state")


@pytest.mark.parametrize(
    ("terminated", "done", "discount", "says"),
    [
        (True, True, 0.0, ""),
        (False, True, 1.0, ""),
        (False, True, 0.0, ""),
        (True, True, 1.0, r"terminated=true and discount=1: .* must be 0"),
    ],
)
def test_a_discount_that_contradicts_the_end_is_refused(terminated, done, discount, says):
    flags = {"terminated": torch.tensor([terminated]), "done": torch.tensor([done])}
    step = stepped(**flags, discount=torch.tensor([discount]))
    if not says:
        require_ends(step)
        return
    with pytest.raises(UserError, match=rf"^data\.env: an episode ended with {says}"):
        require_ends(step)
