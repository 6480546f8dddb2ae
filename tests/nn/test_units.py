"""Who makes hidden units, who reads them, and which of them are dormant."""

from __future__ import annotations

import pytest
import torch
from helpers import tiny_agent, tiny_data
from tensordict import TensorDict
from tiny_agent import TinyAgent
from torch import nn

from plasticity_rl import DrQV2, UserError
from plasticity_rl.callback.dormant_unit_interventions import dormant


@pytest.fixture
def agent() -> DrQV2:
    return DrQV2((9, 20, 20), 2, feature_dim=6, hidden_dim=7, num_channels=4)


def some_batch(agent, size: int = 5) -> TensorDict:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (size, 9, 20, 20), generator=generator, dtype=torch.uint8)
    action = torch.rand((size, agent.action_dim), generator=generator) * 2 - 1
    return TensorDict({"pixels": pixels, "action": action}, batch_size=[size])


def layer_names(agent) -> dict[int, str]:
    return {id(layer): name for name, layer in agent.named_modules()}


def described(agent, name: str) -> dict[str, tuple[list[str], list[str], list[tuple[str, int]]]]:
    names = layer_names(agent)
    return {
        layer.name: (
            [names[id(maker)] for maker in layer.makers],
            [names[id(twin)] for twin in layer.twins],
            [(names[id(reader.layer)], reader.inputs) for reader in layer.readers],
        )
        for layer in agent.units(name)
    }


def test_layers_of_drqv2(agent):
    convnet = "encoder.convnet"
    trunks = [(f"{net}.trunk.0", agent.encoder.repr_dim) for net in ("actor", "critic", "critic_target")]
    assert described(agent, "encoder") == {
        f"{convnet}.1": ([f"{convnet}.0"], [], [(f"{convnet}.2", 4)]),
        f"{convnet}.3": ([f"{convnet}.2"], [], [(f"{convnet}.4", 4)]),
        f"{convnet}.5": ([f"{convnet}.4"], [], [(f"{convnet}.6", 4)]),
        f"{convnet}.7": ([f"{convnet}.6"], [], trunks),
    }
    assert described(agent, "actor") == {
        "actor.policy.1": (["actor.policy.0"], [], [("actor.policy.2", 7)]),
        "actor.policy.3": (["actor.policy.2"], [], [("actor.policy.4", 7)]),
    }
    assert described(agent, "critic.Q2") == {
        f"critic.Q2.{i + 1}": (
            [f"critic.Q2.{i}"],
            [f"critic_target.Q2.{i}"],
            [(f"critic.Q2.{i + 2}", 7), (f"critic_target.Q2.{i + 2}", 7)],
        )
        for i in (0, 2)
    }
    assert [layer.name for layer in agent.units("critic")] == [f"critic.Q{q}.{i}" for q in (1, 2) for i in (1, 3)]
    assert agent.units("critic.trunk") == []


def test_layers_of_the_second_agent():
    data = tiny_data()
    agent = TinyAgent(data.obs_shape, data.action_dim, width=16)
    readers = [("policy.0", 16), ("value.0", 16), ("old_value.0", 16)]
    assert described(agent, "torso") == {"torso.2": (["torso.1"], [], readers)}
    assert agent.value[0].in_features > 16, "the action's columns are no units"
    assert described(agent, "value") == {
        "value.1": (["value.0"], ["old_value.0"], [("value.2", 16), ("old_value.2", 16)])
    }


def test_a_unit_without_readers_does_not_reach_any_output(agent):
    """Against the real forward pass: change a unit's output, and only the readers' columns pass it on."""
    batch = some_batch(agent)

    def outputs() -> list[torch.Tensor]:
        features = agent.encoder(batch["pixels"])
        critics = [*agent.critic(features, batch["action"]), *agent.critic_target(features, batch["action"])]
        return [agent.actor(features), *critics]

    for name in ("encoder", "actor", "critic"):
        for layer in agent.units(name):
            before = outputs()
            unit = layer.size - 2

            def shift(_, __, output, unit=unit):
                output = output.clone()
                output[:, unit] += 3.0
                return output

            handle = layer.activation.register_forward_hook(shift)
            moved = outputs()
            assert any(not torch.equal(a, b) for a, b in zip(before, moved, strict=True)), layer.name
            saved = [reader.layer.weight.detach().clone() for reader in layer.readers]
            for reader in layer.readers:
                block = reader.inputs // layer.size
                with torch.no_grad():
                    reader.layer.weight[:, unit * block : (unit + 1) * block] = 0
            with_shift = outputs()
            handle.remove()
            assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(outputs(), with_shift, strict=True)), layer.name
            for reader, weight in zip(layer.readers, saved, strict=True):
                with torch.no_grad():
                    reader.layer.weight.copy_(weight)


def test_a_norm_before_the_activation_belongs_to_the_makers(agent):
    agent.critic.Q1 = nn.Sequential(
        nn.Sequential(nn.Linear(8, 7), nn.LayerNorm(7)), nn.ReLU(), nn.Identity(), nn.Linear(7, 1)
    )
    agent.critic_target.Q1 = nn.Sequential(
        nn.Sequential(nn.Linear(8, 7), nn.LayerNorm(7)), nn.ReLU(), nn.Identity(), nn.Linear(7, 1)
    )
    (found,) = described(agent, "critic.Q1").values()
    makers, twins, readers = found
    assert makers == ["critic.Q1.0.0", "critic.Q1.0.1"]
    assert twins == ["critic_target.Q1.0.0", "critic_target.Q1.0.1"]
    assert readers == [("critic.Q1.3", 7), ("critic_target.Q1.3", 7)]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([nn.Linear(8, 7), nn.ReLU(), nn.LayerNorm(7), nn.Linear(7, 1)], "cannot follow the units of 'critic.Q1.1'"),
        ([nn.ReLU(), nn.Linear(8, 1)], "no Linear or Conv2d layer makes the units of 'critic.Q1.0'"),
        ([nn.Linear(8, 7), nn.ReLU()], "DrQV2 does not say which layers read the units of 'critic.Q1.1'"),
    ],
)
def test_what_cannot_be_followed_is_refused(agent, layers, message):
    agent.critic.Q1 = nn.Sequential(*layers)
    with pytest.raises(UserError, match=message):
        agent.units("critic")


def test_units_outside_a_sequential_are_refused(agent):
    agent.critic.odd = nn.ReLU()
    with pytest.raises(UserError, match="some lie outside an nn.Sequential"):
        agent.units("critic")


def test_unknown_names_list_the_choices():
    with pytest.raises(UserError, match="no module 'critc'"):
        tiny_agent(tiny_data()).units("critc")


@pytest.mark.parametrize(
    ("tau", "expected"),
    [(0.0, [False, False, True, False]), (0.3, [True, False, True, False]), (0.9, [True, True, True, False])],
)
def test_dormant_by_hand(tau, expected):
    """Mean 2.5, so the scores are 0.2, 0.8, 0 and 3."""
    assert dormant(torch.tensor([0.5, 2.0, 0.0, 7.5]), tau).tolist() == expected


def test_all_units_of_a_silent_layer_are_dormant():
    assert dormant(torch.zeros(3), 0.0).all()


def test_nothing_is_dormant_in_a_layer_that_diverged():
    assert not dormant(torch.tensor([0.0, float("nan"), 1.0]), 0.5).any()
