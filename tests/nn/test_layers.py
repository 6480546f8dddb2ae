"""Which layers count: every one once, hidden ones by what follows them, norms by their kind."""

from __future__ import annotations

import pytest
from torch import nn

from plasticity_rl import UserError
from plasticity_rl.agents.drqv2.networks import Actor, Critic, Encoder
from plasticity_rl.nn.activations import Rational
from plasticity_rl.nn.hypersphere import Scale
from plasticity_rl.nn.layers import hidden_weight_layers, layers_from_output, parameters_outside_norms, weight_layers

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
    mixed = nn.Sequential(nn.Linear(2, 3), Scale(3, 1.0, 0.5), Rational(), nn.Linear(3, 1, bias=False))
    assert list(parameters_outside_norms(mixed)) == ["0.weight", "0.bias", "3.weight"]


def steps(module: nn.Module, name: str) -> list[list[str]]:
    return [list(step) for step in layers_from_output(module, name)]


def test_steps_from_the_output_of_the_published_networks():
    assert steps(CRITIC, "critic") == [
        ["critic.Q1.4", "critic.Q2.4"],
        ["critic.Q1.2", "critic.Q2.2"],
        ["critic.Q1.0", "critic.Q2.0"],
        ["critic.trunk.0", "critic.trunk.1"],
    ]
    assert steps(CRITIC.Q1, "critic.Q1") == [["critic.Q1.4"], ["critic.Q1.2"], ["critic.Q1.0"]]
    policy = [[f"actor.policy.{i}"] for i in (4, 2, 0)]
    assert steps(ACTOR, "actor") == [*policy, ["actor.trunk.0", "actor.trunk.1"]]
    assert steps(ENCODER, "encoder") == [[f"encoder.convnet.{i}"] for i in (6, 4, 2, 0)]


def test_steps_cover_every_parameter_once():
    for module in (CRITIC, ACTOR, ENCODER):
        layers = [layer for step in layers_from_output(module, "m") for layer in step.values()]
        assert sorted(id(p) for layer in layers for p in layer.parameters()) == sorted(map(id, module.parameters()))


class Odd(nn.Module):
    """A head of one bare layer behind nested sequences with norms in front of, between and behind the layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.LayerNorm(4),
            nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5)),
            nn.ReLU(),
            nn.Linear(5, 6),
            nn.LayerNorm(6),
        )
        self.between = nn.Tanh()
        self.head = nn.Linear(6, 2)


def test_norms_go_with_the_layer_before_them():
    assert steps(Odd(), "m") == [["m.head"], ["m.body.3", "m.body.4"], ["m.body.0", "m.body.1.0", "m.body.1.1"]]


def test_a_single_layer_is_one_step():
    assert steps(nn.Linear(3, 2), "m") == [["m"]]


def test_parameters_outside_of_layers_are_refused():
    odd = Odd()
    odd.scale = nn.Parameter(odd.head.bias.detach().clone())
    with pytest.raises(UserError, match="cannot tell which layers of 'm' are its last: it holds parameters outside"):
        layers_from_output(odd, "m")


def test_a_module_without_parameters_has_no_steps():
    assert steps(nn.Sequential(nn.ReLU()), "m") == []


class Streams(nn.Module):
    """A trunk and two heads whose outputs differ in size, the second of which is shorter."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(3, 4)
        self.advantage = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 6))
        self.value = nn.Sequential(nn.Linear(4, 1))


def test_heads_that_are_named_take_steps_together_whatever_their_shapes():
    found = [list(step) for step in layers_from_output(Streams(), "m", ["m.advantage", "m.value"])]
    assert found == [["m.advantage.3", "m.value.0"], ["m.advantage.0", "m.advantage.1"], ["m.trunk"]]


def test_naming_heads_changes_nothing_where_shapes_tell():
    named = [list(step) for step in layers_from_output(CRITIC, "critic", ["critic.Q1", "critic.Q2"])]
    assert named == steps(CRITIC, "critic")


def test_a_head_may_be_a_part_of_a_sequence():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)))
    expected = [["m.2.2"], ["m.2.0"], ["m.0"]]
    assert [list(step) for step in layers_from_output(net, "m", ["m.2"])] == steps(net, "m") == expected
