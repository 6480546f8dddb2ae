"""Which layers count: every one once, hidden ones by what follows them, norms by their kind."""

from __future__ import annotations

import pytest
from torch import nn

from plasticity_rl import UserError
from plasticity_rl.layers import hidden_weight_layers, parameters_outside_norms, weight_layers
from plasticity_rl.networks import Actor, Critic, Encoder

ENCODER, ACTOR, CRITIC = Encoder((9, 16, 16), 4), Actor(30, 2, 8, 16), Critic(30, 2, 8, 16)


def relus(module: nn.Module) -> list[nn.Module]:
    return [layer for layer in module.modules() if isinstance(layer, nn.ReLU)]


def test_weight_layers_by_name():
    assert list(weight_layers({"encoder": ENCODER})) == [f"encoder.convnet.{i}" for i in (0, 2, 4, 6)]
    found = weight_layers({"critic": CRITIC})
    assert list(found) == ["critic.trunk.0", *(f"critic.Q{q}.{i}" for q in (1, 2) for i in (0, 2, 4))]
    assert found["critic.Q2.4"] is CRITIC.Q2[4]


def test_overlapping_names_count_once():
    found = weight_layers({"critic.Q1": CRITIC.Q1, "critic": CRITIC, "again": CRITIC.Q1})
    assert len(found) == len({id(layer) for layer in found.values()}) == 7


def test_a_single_layer():
    assert list(weight_layers({"critic.Q1.4": CRITIC.Q1[4]})) == ["critic.Q1.4"]


@pytest.mark.parametrize(
    ("modules", "message"),
    [({}, "modules is empty"), ({"critic": CRITIC, "norm": CRITIC.trunk[1]}, "module 'norm' has no linear or conv")],
)
def test_modules_without_weights_are_refused(modules, message):
    with pytest.raises(UserError, match=message):
        weight_layers(modules)


def test_hidden_layers_have_a_norm_or_an_activation_behind_them():
    hidden = hidden_weight_layers({"critic": CRITIC}, relus(CRITIC))
    assert list(hidden) == ["critic.trunk.0", "critic.Q1.0", "critic.Q1.2", "critic.Q2.0", "critic.Q2.2"]
    assert list(hidden_weight_layers({"actor": ACTOR}, relus(ACTOR))) == [
        "actor.trunk.0",
        "actor.policy.0",
        "actor.policy.2",
    ]
    assert len(hidden_weight_layers({"encoder": ENCODER}, relus(ENCODER))) == 4


def test_a_squashed_output_is_no_hidden_layer():
    policy = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.Tanh())
    assert list(hidden_weight_layers({"policy": policy}, relus(policy))) == ["policy.0"]
    with pytest.raises(UserError, match=r"modules=\['head'\] have no hidden layer"):
        hidden_weight_layers({"head": policy[2]}, relus(policy))


def test_overlapping_hidden_layers_count_once():
    hidden = hidden_weight_layers({"critic.Q1": CRITIC.Q1, "critic": CRITIC}, relus(CRITIC))
    assert len(hidden) == len({id(layer) for layer in hidden.values()}) == 5


def test_parameters_outside_norms():
    names = parameters_outside_norms(CRITIC)
    assert set(names) == {n for n, _ in CRITIC.named_parameters()} - {"trunk.1.weight", "trunk.1.bias"}
    assert names["Q1.0.weight"] is CRITIC.Q1[0].weight
    assert list(parameters_outside_norms(CRITIC.Q1[0])) == ["weight", "bias"]
    assert parameters_outside_norms(CRITIC.trunk[1]) == {}
