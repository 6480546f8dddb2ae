"""Sizes that are refused before anything is allocated are counted as the networks are really built."""

from __future__ import annotations

import math

import pytest
from helpers import tiny_data

from plasticity_rl import SAC, DrQV2, UserError
from plasticity_rl.agents import sizes
from plasticity_rl.agents.drqv2.networks import count_parameters
from plasticity_rl.data import options


def parameters(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("obs_shape", [(9, 16, 16), (9, 84, 84), (3, 21, 18), (7,)])
@pytest.mark.parametrize("widths", [(50, 64, 32), (8, 16, 4), (1, 1, 1)])
def test_parameters_are_counted_as_they_are_built(obs_shape, widths):
    names = ("feature_dim", "hidden_dim", "num_channels")
    agent = DrQV2(obs_shape, 3, **dict(zip(names, widths, strict=True)), random_shift_pad=1)
    counted = count_parameters(obs_shape, 3, *widths)
    assert counted == {name: parameters(getattr(agent, name)) for name in ("encoder", "actor", "critic")}


def test_published_networks_by_hand():
    # 32 channels leave 32 * 35 * 35 = 39200 features of 84 pixels; the trunk has 39201 * 50 + 100 = 1960150 parameters.
    # encoder: (9 * 9 + 1) * 32 + 3 * (9 * 32 + 1) * 32 = 2624 + 27744 = 30368
    # actor: 1960150 + 51 * 1024 + 1025 * 1024 + 1025 * 6 = 3068124
    # critic: 1960150 + 2 * (57 * 1024 + 1025 * 1024 + 1025) = 4178136
    assert count_parameters((9, 84, 84), 6, 50, 1024, 32) == {"encoder": 30368, "actor": 3068124, "critic": 4178136}


def needed(message: str) -> int:
    return int(message.split(" bytes")[0].split()[-1])


@pytest.mark.parametrize("build", [lambda: DrQV2((9, 16, 16), 2, hidden_dim=32), lambda: SAC((5,), 2, hidden_dim=32)])
def test_bytes_are_weights_gradients_two_moments_and_the_target(build, monkeypatch):
    agent = build()
    trained = sum(parameters(getattr(agent, name)) for name in agent.module_names if name != "temperature")
    monkeypatch.setattr(sizes, "largest_memory", lambda: 16 * trained)
    with pytest.raises(UserError, match=r"hidden_dim=32.* are available: lower") as error:
        build()
    assert needed(str(error.value)) == 4 * 4 * trained + 4 * parameters(agent.critic_target)
    monkeypatch.setattr(sizes, "largest_memory", lambda: needed(str(error.value)))
    build()


def test_a_batch_is_two_observations_a_transition(monkeypatch):
    monkeypatch.setattr(options, "largest_memory", lambda: 2 * 8 * 100)
    options.refuse_large_batch(8, 100, "data.batch_size")
    with pytest.raises(UserError, match=r"batch_size=9: .* take 1800 bytes .* 1600 bytes"):
        options.refuse_large_batch(9, 100, "data.batch_size")


def test_where_nobody_tells_the_memory_nothing_is_refused(monkeypatch):
    monkeypatch.setattr(options, "largest_memory", lambda: None)
    monkeypatch.setattr(sizes, "largest_memory", lambda: None)
    options.refuse_large_batch(10**15, 10**6, "data.batch_size")
    sizes.refuse_large_networks(10**18, 0, {}, "")


ON = {"prioritized": True}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"reward_clip": 0.0}, r"reward_clip=0.0 must be > 0 and finite; leave it out for no clipping"),
        ({"reward_clip": math.inf}, r"reward_clip=inf must be > 0 and finite"),
        ({**ON, "priority_exponent": 1.5}, r"priority_exponent=1.5 must be in \[0, 1\]; published: 0.5 and 0.6"),
        ({**ON, "priority_exponent": math.nan}, r"priority_exponent=nan must be in \[0, 1\]"),
        ({**ON, "priority_beta": "linear(0.4,1)"}, r"priority_beta='linear\(0.4,1\)' is not a schedule"),
        (
            {**ON, "priority_beta": "linear(0.4,1.5,9)"},
            r"priority_beta=1.5 must be .* \(given: 'linear\(0.4,1.5,9\)'\)",
        ),
        ({**ON, "priority_beta": -0.1}, r"priority_beta=-0.1 must be in \[0, 1\]"),
        ({"priority_exponent": 0.6}, r"priority_exponent=0.6 does nothing without .* RLDataModule\(prioritized=True\)"),
        ({"priority_beta": "0.5"}, r"priority_beta=0.5 does nothing without priorities"),
        (
            {**ON, "overlap": True},
            r"overlap=true begins the next batch before .* with prioritized=true: leave out one",
        ),
    ],
)
def test_priorities_and_clips_that_cannot_be_had_are_refused(given, says):
    with pytest.raises(UserError, match=says):
        tiny_data(**given)


def test_defaults_spelled_out_are_no_priorities():
    data = tiny_data(priority_exponent=0.5, priority_beta="0.4", overlap=True)
    assert data.priorities(lambda: 0) is None


def test_beta_counts_in_env_steps():
    now = 0
    priorities = tiny_data(**ON, priority_beta="linear(0.4,1.0,100)").priorities(lambda: now)
    assert priorities.exponent == 0.5
    assert priorities.beta() == pytest.approx(0.4)
    now = 50
    assert priorities.beta() == pytest.approx(0.7)


def test_priorities_are_for_one_rank():
    tiny_data().refuse_uneven(2)
    with pytest.raises(UserError, match="prioritized=true is for one device, not for 2 ranks"):
        tiny_data(**ON).refuse_uneven(2)
