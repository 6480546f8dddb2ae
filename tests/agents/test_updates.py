"""What all agents do in the same way: columns, targets that follow, twins by name, the switch for augmentations."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import TINY_DISCRETE, tiny_agent, tiny_data, tiny_dqn, tiny_sac
from tensordict import TensorDict
from torch import nn

from plasticity_rl import DQN, UserError
from plasticity_rl.agents.augmented import AugmentsImages
from plasticity_rl.agents.updates import copy_weights, detached, follow, reward_and_discount

MAKE = {
    "drqv2": lambda **given: tiny_agent(tiny_data(), **given),
    "sac": lambda **given: tiny_sac(tiny_data(observation="state"), **given),
    "dqn": lambda **given: tiny_dqn(tiny_data(**TINY_DISCRETE), **given),
}


def layer(weight: float, bias: float) -> nn.Linear:
    made = nn.Linear(1, 1)
    nn.init.constant_(made.weight, weight)
    nn.init.constant_(made.bias, bias)
    return made


def values(*layers: nn.Linear) -> list[float]:
    return [p.item() for one in layers for p in one.parameters()]


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_rewards_and_discounts_are_columns_whatever_they_came_as(shape):
    batch = TensorDict({"reward": torch.arange(3.0).view(shape), "discount": torch.ones(shape)}, [3])
    reward, discount = reward_and_discount(batch)
    assert reward.tolist() == [[0.0], [1.0], [2.0]]
    assert discount.tolist() == [[1.0]] * 3


def test_targets_follow_by_a_share_and_are_copied_in_place():
    slow, fast = (layer(0.0, 4.0), layer(8.0, -8.0)), (layer(1.0, 8.0), layer(0.0, 0.0))
    where = [p.data_ptr() for one in slow for p in one.parameters()]
    follow(slow, fast, 0.25)
    assert values(*slow) == [0.25, 5.0, 6.0, -6.0]
    copy_weights(slow, fast)
    assert values(*slow) == values(*fast) == [1.0, 8.0, 0.0, 0.0]
    assert where == [p.data_ptr() for one in slow for p in one.parameters()]


def test_a_copied_target_has_the_buffers_too():
    slow, fast = (nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)) for _ in range(2))
    with torch.no_grad():
        fast[1].running_mean.fill_(3.0)
        fast[1].num_batches_tracked.fill_(7)
    where = [buffer.data_ptr() for buffer in slow.buffers()]
    copy_weights([slow], [fast])
    assert all(torch.equal(value, fast.state_dict()[name]) for name, value in slow.state_dict().items())
    assert where == [buffer.data_ptr() for buffer in slow.buffers()]


def test_metrics_have_no_graph():
    found = detached({"loss": layer(1.0, 0.0).weight.sum()})
    assert not found["loss"].requires_grad
    assert found["loss"].item() == 1.0


@pytest.mark.parametrize("kind", MAKE)
def test_twins_are_found_by_their_name(kind):
    agent = MAKE[kind]()
    assert agent.target_of("critic") is agent.critic_target
    assert agent.target_of("actor") is None
    assert agent.target_of("nothing") is None
    assert agent.target_of("encoder") is (agent.encoder_target if kind == "dqn" else None)
    for name, inner in agent.critic.named_modules():
        twin = agent.target_of(f"critic.{name}".rstrip("."))
        assert type(twin) is type(inner)
        assert twin is agent.critic_target.get_submodule(name)


@pytest.mark.parametrize("kind", MAKE)
def test_every_agent_refuses_the_same_options_in_the_same_words(kind):
    for option, value, says in (
        ("lr", 0.0, r"lr=0.0 must be in \(0, 1\]; published: "),
        ("lr", 2.0, r"lr=2.0 must be in \(0, 1\]; published: "),
        ("num_seed_frames", -1, "num_seed_frames=-1 must be a whole number >= 0"),
        ("num_seed_frames", 1.5, "num_seed_frames=1.5 must be a whole number >= 0"),
    ):
        with pytest.raises(UserError, match=says):
            MAKE[kind](**{option: value})


@pytest.mark.parametrize("kind", MAKE)
def test_a_layer_is_drawn_from_the_generator_given(kind):
    agent = MAKE[kind]()
    layer = agent.critic.get_submodule("advantage.0" if kind == "dqn" else "Q1.0")
    process, drawn = torch.get_rng_state(), []
    for seed in (5, 5, 6):
        agent.init_layer(layer, torch.Generator().manual_seed(seed))
        drawn.append(layer.weight.detach().clone())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])
    assert torch.equal(torch.get_rng_state(), process)


def test_of_states_nothing_is_augmented():
    for agent in (tiny_agent(tiny_data(observation="state")), DQN((5,), 3)):
        assert isinstance(agent, AugmentsImages)
        assert not agent.augment
        with pytest.raises(UserError, match="^augment=True: states are not augmented"):
            agent.augment = True


@pytest.mark.parametrize("kind", ["drqv2", "dqn"])
def test_observations_are_augmented_one_after_the_other_while_the_switch_is_on(kind):
    agent = MAKE[kind](augment=True, random_shift_pad=2)
    channels = agent.hparams["obs_shape"]
    now, later = torch.randint(256, (2, 4, *channels), dtype=torch.uint8)
    batch = TensorDict({"pixels": now, "next": TensorDict({"pixels": later}, [4])}, [4])
    state = agent.rng.state_dict()
    found = agent.observations_of(batch)
    agent.rng.load_state_dict(state)
    expected = agent.augmentations(now, agent.rng), agent.augmentations(later, agent.rng)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert not torch.equal(found[0], now.to(found[0].dtype))
    agent.augment = False
    assert agent.observations_of(batch)[0] is batch["pixels"]
    assert agent.settings()["schedule/augment"] == 0.0


@pytest.mark.parametrize("kind", ["drqv2", "dqn"])
def test_an_update_learns_from_augmented_images_now_and_later(kind):
    agent = MAKE[kind](augment=True, random_shift_pad=2)
    g, channels = torch.Generator().manual_seed(0), agent.hparams["obs_shape"]
    now, later = torch.randint(256, (2, 4, *channels), dtype=torch.uint8, generator=g)
    action = torch.randint(3, (4, 1), generator=g) if kind == "dqn" else torch.rand(4, agent.action_dim, generator=g)
    given = {"action": action, "reward": torch.randn(4, 1, generator=g), "discount": torch.full((4, 1), 0.9)}
    batch = TensorDict({"pixels": now, "next": TensorDict({"pixels": later}, [4]), **given}, [4])
    twin = copy.deepcopy(agent)
    seen = dict(zip(("pixels", "next"), twin.observations_of(batch), strict=True))
    shifted = TensorDict({**given, "pixels": seen["pixels"], "next": {"pixels": seen["next"]}}, [4])
    expected = twin.loss_on("critic", shifted, twin.rng.get_own("update_noise"))
    assert agent.update(batch)["loss/critic"].item() == pytest.approx(expected.item(), rel=1e-5)
