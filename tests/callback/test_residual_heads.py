"""Residual heads in every agent: what is built, whose units are recycled, and what they do to each other."""

from __future__ import annotations

import pytest
import torch
from bare import BareAgent
from built import assert_learns, assert_target_is_a_twin, changed, drqv2, shapes, some_batch
from helpers import fit_tiny, tiny_dqn, tiny_sac
from run_state import differences, run_state
from torch import nn

from callbacks import (
    BroNet,
    CReLU,
    DeepFourierFeatures,
    FractionActiveUnits,
    InFeR,
    LayerNorm,
    NormalizeAndProject,
    PlasticityInjection,
    RationalActivation,
    ReDo,
    Reset,
    SimBaBlocks,
    SpectralNorm,
    WiderNetwork,
)
from plasticity_rl import DQN, SAC, UserError
from plasticity_rl.callback.dormant_unit_interventions import unit_activity
from plasticity_rl.nn.activations import CReLU as CReLUActivation
from plasticity_rl.nn.noisy import NoisyLinear
from plasticity_rl.nn.residual import Residual
from plasticity_rl.surgery import reinitialize

BOTH = pytest.mark.parametrize("cls", [SimBaBlocks, BroNet])
HIDDEN = {SimBaBlocks: 32, BroNet: 8}
"""Units of a block on a stream of 8."""


def blocks(head: nn.Module) -> list[Residual]:
    return [layer for layer in head.modules() if isinstance(layer, Residual)]


def linears(module: nn.Module) -> list[nn.Linear]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


@BOTH
def test_the_published_sizes_are_those_of_what_the_head_puts_out(cls):
    agent = SAC((5,), 2)
    agent.build([cls()])
    width = {SimBaBlocks: 128, BroNet: 256}[cls]
    assert (len(blocks(agent.actor.policy)), agent.actor.policy.get_submodule("0").out_features) == (1, width)
    for critic in (agent.critic, agent.critic_target):
        for head in (critic.Q1, critic.Q2):
            assert (len(blocks(head)), head.get_submodule("0").out_features) == (2, 512)
    hidden = blocks(agent.critic.Q1)[0]
    assert linears(hidden)[0].out_features == {SimBaBlocks: 2048, BroNet: 512}[cls]


@BOTH
def test_the_rest_of_the_agent_is_that_of_a_run_without_it(cls):
    agent, plain = drqv2(cls(hidden_dim=8)), drqv2()
    assert {name.split(".")[1] for name in changed(agent, plain)} == {"policy", "Q1", "Q2"}
    assert_target_is_a_twin(agent)
    assert not torch.equal(agent.critic.Q1[0].weight, agent.critic.Q2[0].weight)
    assert_learns(agent)


@BOTH
def test_one_head_can_be_built_and_two_instances_coexist(cls):
    agent = drqv2(cls(modules=["critic.Q1"], num_blocks=3, hidden_dim=8))
    assert (len(blocks(agent.critic.Q1)), len(blocks(agent.critic.Q2)), len(blocks(agent.critic_target.Q1))) == (
        3,
        0,
        3,
    )
    agent = drqv2(cls(modules=["actor"], num_blocks=1, hidden_dim=4), cls(modules=["critic"], hidden_dim=6))
    assert shapes(agent)["actor.policy.0.weight"] == (4, 7)
    assert shapes(agent)["critic.Q1.0.weight"] == (6, 9)


@BOTH
def test_streams_of_games_keep_their_kind_of_layer(cls):
    """The encoder's last convolution is read by the first layers of both streams; all are noisy."""
    agent = DQN((4, 10, 10), 3, encoder="minatar", num_channels=4, dueling=True, noisy_sigma=0.5, num_atoms=5)
    agent.build([cls(hidden_dim=8)])
    for name, outputs in (("advantage", 15), ("value", 5)):
        head = agent.critic.get_submodule(name)
        assert all(isinstance(layer, NoisyLinear) for layer in linears(head))
        assert linears(head)[-1].out_features == outputs
        assert float(head[0].weight_sigma.detach().mean()) == pytest.approx(0.5 / head[0].in_features ** 0.5)
    readers = {id(reader.layer) for reader in agent.units("encoder")[-1].readers}
    assert readers == {
        id(net.get_submodule(name)[0]) for net in (agent.critic, agent.critic_target) for name in ("advantage", "value")
    }


@BOTH
def test_a_reset_draws_first_weights_of_the_same_architecture(cls):
    agent = BareAgent(cls(hidden_dim=8), reset := Reset(modules=["critic"], at_frames=[4]))
    first = {name: p.detach().clone() for name, p in agent.named_parameters()}
    for seed in range(2):
        agent.env_frames += 4
        before = {name: p.detach().clone() for name, p in agent.named_parameters()}
        reset.on_update_start(agent)
        if seed == 0:
            agent.update(some_batch(agent))
    fresh = {name: p.detach() for name, p in agent.named_parameters()}
    for name in (n for n in fresh if n.startswith("critic.") and fresh[n].ndim == 2):
        assert not torch.equal(fresh[name], before[name]), name
        assert not torch.equal(fresh[name], first[name]), name
        assert float(fresh[name].std()) == pytest.approx(float(first[name].std()), rel=0.5), name
    for block in blocks(agent.critic):
        if cls is BroNet:
            torch.testing.assert_close(linears(block)[0].weight @ linears(block)[0].weight.T, 2 * torch.eye(8))
        norms = [layer for layer in block if isinstance(layer, nn.LayerNorm)]
        assert norms
        assert all(bool((norm.weight == 1).all()) and not norm.bias.any() for norm in norms)
    assert_target_is_a_twin(agent)


@BOTH
def test_the_last_layers_of_both_heads_are_reset_together(cls):
    agent = drqv2(cls(hidden_dim=8))
    reset = Reset(modules=["critic"], last_layers=2, at_frames=[0])
    weights = {
        name for name in reset.mutates(agent).optimizer_slots if name.endswith("weight") and shapes(agent)[name][1:]
    }
    last, block = {SimBaBlocks: ("4", "2.3"), BroNet: ("5", "4.3")}[cls]
    assert weights == {f"critic.{q}.{path}.weight" for q in ("Q1", "Q2") for path in (last, block)}


@BOTH
def test_a_dead_unit_of_a_block_is_recycled_and_the_stream_is_left_alone(cls):
    """Its row is drawn anew, its column is zero; the stream, of which one number is always zero, is left alone."""
    agent = BareAgent(cls(hidden_dim=8), redo := ReDo(modules=["critic"], tau=0.0, every_n_updates=1, batch_size=16))
    block = blocks(agent.critic.Q1)[1]
    maker, reader = linears(block)
    behind = block[[*block].index(maker) + 1]  # the norm between it and the ReLU, if there is one
    with torch.no_grad():
        for layer in (maker, *([behind] if isinstance(behind, nn.LayerNorm) else [])):
            layer.bias[3], layer.weight[3] = (-5.0, 0.0)
        for head in (agent.critic.Q1, agent.critic.Q2):
            reader_of_stream = linears(head)[0]
            reader_of_stream.weight[2], reader_of_stream.bias[2] = 0.0, -9.0
    assert ("critic.Q1." + {SimBaBlocks: "2.2", BroNet: "4.2"}[cls]) in [u.name for u in agent.units("critic")]
    dead = {layer.name: int((activity == 0).sum()) for layer, activity in unit_activity(agent, "critic", 16)}
    assert [count for name, count in dead.items() if name.startswith("critic.Q1.")][-1] >= 1
    before = {name: p.detach().clone() for name, p in agent.named_parameters()}
    outputs = agent.forward_all(some_batch(agent, 16, seed=5))["critic"]
    agent.num_updates = 1
    redo.on_update_start(agent)
    assert bool(maker.weight[3].any())
    assert float(maker.bias[3].detach()) == 0.0
    assert not reader.weight[:, 3].any()
    if cls is SimBaBlocks:  # a norm between a layer and its ReLU moves the other units a little, see UnitLayer
        after = agent.forward_all(some_batch(agent, 16, seed=5))["critic"]
        torch.testing.assert_close(after, outputs, atol=1e-6, rtol=1e-5)
    for head in (agent.critic.Q1, agent.critic.Q2):
        assert float(linears(head)[0].bias[2].detach()) == -9.0
    moved = {name for name, p in agent.named_parameters() if not torch.equal(p, before[name])}
    in_blocks = {id(p) for net in (agent.critic, agent.critic_target) for b in blocks(net) for p in b.parameters()}
    assert moved
    assert all(id(p) in in_blocks for name, p in agent.named_parameters() if name in moved), "the stream was edited"


@BOTH
def test_active_units_are_those_of_every_relu(cls):
    agent = BareAgent(cls(modules=["critic"], hidden_dim=8), FractionActiveUnits(every_n_updates=1))
    seen: dict[str, float] = {}
    names = [f"Q{q}.{sub}" for q in (1, 2) for sub in {SimBaBlocks: ("1.2", "2.2"), BroNet: ("2", "3.2", "4.2")}[cls]]

    def look(name: str, output: torch.Tensor) -> None:
        if torch.is_grad_enabled():  # neither targets nor, later, the actor's loss
            seen.setdefault(name, float((output > 0).double().mean()))

    handles = [
        agent.critic.get_submodule(name).register_forward_hook(lambda _, __, output, name=name: look(name, output))
        for name in names
    ]
    agent.step()
    for handle in handles:
        handle.remove()
    assert {name: agent.latest[f"fau/critic/{name}"] for name in names} == pytest.approx(seen)
    assert 0.2 < agent.latest["fau/critic"] < 0.8


@BOTH
def test_an_injection_leaves_the_output_and_lets_a_fresh_head_learn(cls):
    agent = BareAgent(cls(hidden_dim=8), PlasticityInjection(at_frames=[4]), lr=1e-3)
    agent.step()
    before = agent.forward_all(some_batch(agent, seed=5))["critic"]
    agent.env_frames += 4
    agent.dispatch("on_update_start")
    torch.testing.assert_close(agent.forward_all(some_batch(agent, seed=5))["critic"], before, atol=1e-5, rtol=1e-5)
    added = agent.critic.Q1.injected[0]["added"]
    assert len(blocks(added)) == 2
    assert all(p.requires_grad for p in added.parameters())
    assert not any(p.requires_grad for layer in list(agent.critic.Q1.children())[:-1] for p in layer.parameters())
    assert [u.name for u in agent.units("critic.Q1")][-1].startswith("critic.Q1.injected.0.added.")


@BOTH
@pytest.mark.parametrize("norms", [LayerNorm, NormalizeAndProject])
@pytest.mark.parametrize("order", [1, -1])
def test_norms_of_another_architecture_are_refused_in_the_same_head_alone(cls, norms, order):
    with pytest.raises(UserError, match=r"cannot run beside .*: actor.policy is normalised in places of its own") as e:
        drqv2(*[cls(hidden_dim=8), norms()][::order])
    assert "\n" not in str(e.value)
    agent = drqv2(cls(modules=["critic"], hidden_dim=8), norms(modules=["encoder", "actor"]))
    assert isinstance(agent.actor.policy.get_submodule("0_norm"), nn.LayerNorm)


def test_two_architectures_of_one_head_are_refused():
    with pytest.raises(UserError, match="^BroNet cannot run beside SimBaBlocks: both build the head critic.Q1$"):
        drqv2(SimBaBlocks(modules=["actor", "critic"]), BroNet(modules=["critic"]))
    agent = drqv2(SimBaBlocks(modules=["actor"], hidden_dim=4), BroNet(modules=["critic"], hidden_dim=8))
    assert_learns(agent)


@pytest.mark.parametrize("activation", [CReLU, DeepFourierFeatures])
def test_two_outputs_per_unit_fit_blocks_of_simba_and_no_stream_of_bro(activation):
    with pytest.raises(UserError, match="in critic.Q1 those of the first layer are the residual stream itself"):
        drqv2(BroNet(modules=["critic"], hidden_dim=8), activation(modules=["critic"]))
    drqv2(BroNet(modules=["critic"], hidden_dim=8), activation(modules=["encoder"]))
    agent = drqv2(SimBaBlocks(modules=["critic"], hidden_dim=8), activation(modules=["critic"]))
    maker, reader = linears(blocks(agent.critic.Q1)[0])
    assert (maker.out_features, reader.in_features) == ((32, 64) if activation is CReLU else (16, 32))
    assert isinstance(blocks(agent.critic.Q1)[0][2], CReLUActivation) == (activation is CReLU)
    assert_learns(agent)


@BOTH
def test_wider_blocks_keep_the_stream_and_their_first_weights(cls):
    agent = drqv2(cls(modules=["critic"], hidden_dim=8), WiderNetwork(modules=["critic"], factor=2.0))
    maker, reader = linears(blocks(agent.critic.Q1)[0])
    assert (maker.in_features, maker.out_features) == (8, 2 * HIDDEN[cls])
    assert (reader.in_features, reader.out_features) == (2 * HIDDEN[cls], 8)
    assert maker.own_start == reader.own_start == {SimBaBlocks: "he_normal", BroNet: "orthogonal"}[cls]
    assert_learns(agent)


@BOTH
def test_other_architectures_work_inside(cls):
    agent = drqv2(cls(modules=["critic"], hidden_dim=8), RationalActivation(modules=["critic"]), SpectralNorm())
    assert not [layer for layer in agent.critic.modules() if isinstance(layer, nn.ReLU)]
    assert_learns(agent)
    assert BareAgent(cls(hidden_dim=8), InFeR(coefficient=1.0, num_heads=2)).step() is not None


@BOTH
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"num_blocks": 0}, r"num_blocks=0 must be a whole number >= 1, or null for the published sizes"),
        ({"hidden_dim": 1.5}, r"hidden_dim=1.5 must be a whole number"),
        ({"hidden_dim": 10**6}, r"hidden_dim=1000000 must be at most 8192: larger heads do not fit into memory"),
        ({"num_blocks": 1000}, r"num_blocks=1000 must be at most 64"),
        ({"modules": []}, r"modules is empty"),
    ],
)
def test_bad_arguments_are_refused(cls, arguments, says):
    with pytest.raises(UserError, match=f"{cls.__name__}.{says}"):
        cls(**arguments)


@BOTH
def test_modules_without_a_head_are_refused(cls):
    with pytest.raises(UserError, match=f"{cls.__name__}.modules: 'encoder' has no head"):
        drqv2(cls(modules=["encoder"]))
    with pytest.raises(UserError, match="no module 'actr'.* Did you mean actor"):
        drqv2(cls(modules=["actr"]))


@BOTH
@pytest.mark.parametrize("kind", ["sac", "dqn"])
def test_runs_of_other_agents_are_the_same_twice_and_learn(cls, kind, tmp_path):
    make, data = {"sac": (tiny_sac, {"observation": "state"}), "dqn": (tiny_dqn, {"task": "tiny_discrete"})}[kind]
    runs = []
    for number in range(2):
        given = [cls(hidden_dim=8), ReDo(tau=0.5, every_n_updates=3, batch_size=8), Reset(at_frames=[80])]
        runs.append(
            fit_tiny(tmp_path / str(number), callbacks=given, make_agent=make, data_options=data, max_frames=120)
        )
    assert differences(*map(run_state, runs)) == []
    assert runs[0].num_updates >= 20
    assert all(bool(torch.isfinite(p).all()) for p in runs[0].parameters())
    reinitialize(runs[0].critic, runs[0].init_layer, torch.Generator().manual_seed(0))
