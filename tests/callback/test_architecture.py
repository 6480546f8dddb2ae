"""Building an agent: order, idempotence, fresh weights, refusals."""

from __future__ import annotations

import copy
import itertools

import lightning.pytorch as pl
import pytest
import torch
from built import changed, drqv2, other_agent, shapes, some_batch
from helpers import fit_tiny, tiny_agent, tiny_data, weights_hash

import callbacks
from callbacks import CReLU, L2Init, LayerNorm, RandomPruning, RationalActivation, Reset, SpectralNorm, WiderNetwork
from plasticity_rl import DrQV2, UserError
from plasticity_rl.checkpoint_files import refuse_other_architecture

STACK = [
    (WiderNetwork, {"modules": ["critic"], "factor": 1.5}),
    (CReLU, {"modules": ["critic", "encoder"]}),
    (LayerNorm, {}),
    (SpectralNorm, {"modules": ["critic"]}),
    (RandomPruning, {"sparsity": 0.5}),
]


def stack() -> list:
    return [cls(**arguments) for cls, arguments in STACK]


def test_the_order_given_does_not_matter():
    first = drqv2(*stack())
    expected = weights_hash(first)
    for order in itertools.islice(itertools.permutations(range(5)), 1, None, 13):
        given = stack()
        assert weights_hash(drqv2(*[given[i] for i in order])) == expected
    names = [name for name, _ in first.critic.Q1.named_children()]
    assert names == ["0", "0_norm", "1", "2", "2_norm", "3", "4"]
    assert [type(t).__name__ for t in first.critic.Q1[0].transforms] == ["FixedMask", "SpectralNormalization"]
    assert first.critic.Q1[0].weight.shape == (9, 9), "6 * 1.5 units, 7 features and 2 actions"
    assert first.critic.Q1.get_submodule("2").weight.shape == (9, 18), "each unit has two outputs"
    first.update(some_batch(first))


def test_building_again_changes_nothing_and_others_are_refused():
    agent = drqv2(*stack())
    expected = weights_hash(agent)
    agent.build(stack()[::-1])
    assert weights_hash(agent) == expected
    with pytest.raises(UserError, match="this DrQV2 was built with WiderNetwork.*make a new one for other callbacks"):
        agent.build([LayerNorm()])
    agent.build([*stack(), Reset(at_frames=[5]), pl.Callback()])


def test_fresh_weights_depend_on_the_seed_and_draw_no_other_number():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    agents = [drqv2(*stack(), seed=seed) for seed in (1, 1, 2)]
    assert changed(agents[0], agents[1]) == set()
    assert "critic.Q1.0.weight" in changed(agents[0], agents[2])
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)
    assert agents[0].rng.state_dict() == {}


def test_layers_of_one_shape_get_one_draw_whoever_shapes_them():
    """CReLU and a width of 2 both make Q1's last layer read 12 inputs."""
    one, two = drqv2(CReLU(modules=["critic"])), drqv2(WiderNetwork(modules=["critic"], factor=2))
    assert torch.equal(one.critic.Q1[4].weight, two.critic.Q1[4].weight)
    assert one.critic.Q1[2].weight.shape != two.critic.Q1[2].weight.shape


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (
            [RationalActivation(modules=["critic"]), CReLU(modules=["critic.Q1"])],
            "CReLU cannot run beside RationalActivation: both replace the activation critic.Q1.1",
        ),
        (
            [LayerNorm(modules=["critic"]), callbacks.NormalizeAndProject(modules=["critic.Q2"])],
            "LayerNorm cannot run beside NormalizeAndProject: both put a norm behind critic.Q2.0",
        ),
        (
            [SpectralNorm(modules=["critic.Q1"]), SpectralNorm(modules=["critic"])],
            "SpectralNorm cannot run beside SpectralNorm: both normalise the weight of critic.Q1.0",
        ),
    ],
)
def test_two_for_one_slot_are_refused_by_name_in_either_order(pair, message):
    for given in (pair, pair[::-1]):
        with pytest.raises(UserError) as error:
            drqv2(*given)
        assert str(error.value) == message


def test_the_same_kinds_on_other_modules_are_not_refused():
    agent = drqv2(RationalActivation(modules=["critic.Q2"]), CReLU(modules=["critic.Q1"]), LayerNorm(modules=["actor"]))
    agent.update(some_batch(agent))


@pytest.mark.parametrize("name", ["CReLU", "DeepFourierFeatures", "LayerNorm", "RationalActivation", "WiderNetwork"])
def test_modules_without_hidden_layers_and_unknown_ones_are_refused(name):
    cls = getattr(callbacks, name)
    with pytest.raises(UserError, match="no module 'critc' in DrQV2.*Did you mean critic"):
        drqv2(cls(modules=["critc"]))
    with pytest.raises(UserError, match="no hidden"):
        drqv2(cls(modules=["critic.Q1.4"]))
    with pytest.raises(UserError, match=f"{name}.modules is empty"):
        cls(modules=[])


def test_a_trained_agent_that_is_built_forgets_its_own_optimizers():
    agent = drqv2()
    agent.update(some_batch(agent))
    agent.build([WiderNetwork(modules=["critic"])])
    before = agent.critic.Q1[0].weight.detach().clone()
    agent.update(some_batch(agent))
    assert not torch.equal(agent.critic.Q1[0].weight, before)


def test_what_others_copy_in_setup_is_the_built_network(tmp_path):
    """L2Init copies the first weights: they must be those of the wide layers."""
    regularizer = L2Init()
    agent = fit_tiny(tmp_path, callbacks=[regularizer, WiderNetwork(modules=["critic"])], max_frames=60)
    assert regularizer.state_dict()["initial"]["critic.Q1.0.weight"].shape == agent.critic.Q1[0].weight.shape
    assert agent.critic.Q1[0].weight.shape[0] == 32


def test_a_checkpoint_of_another_architecture_is_refused_by_name(tmp_path):
    fit_tiny(tmp_path, callbacks=[LayerNorm(modules=["critic"])], max_frames=100)
    with pytest.raises(UserError, match=r"LayerNorm\(modules=\['critic'\]\) removed since the checkpoint"):
        fit_tiny(tmp_path, max_frames=120, ckpt_path="last")
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)  # of others, only shapes may be known
    plain = {name: list(p.shape) for name, p in tiny_agent(tiny_data()).named_parameters()}
    with pytest.raises(UserError, match=r"another network: critic.Q1.0_norm.weight is \[16\] there and absent here"):
        refuse_other_architecture(saved["rl"]["architecture"], plain)


def test_all_of_them_on_another_agent():
    given = [
        WiderNetwork(modules=["torso", "value"], factor=2),
        CReLU(modules=["torso"]),
        RationalActivation(modules=["value"]),
        LayerNorm(modules=["torso", "value", "policy"]),
        SpectralNorm(modules=["value"]),
        RandomPruning(modules=["policy"], sparsity=0.5),
    ]
    agent = other_agent(*given)
    assert shapes(agent)["policy.0.weight"] == (16, 64)
    assert shapes(agent)["value.0.weight"] == (32, 66), "64 outputs of the torso and 2 actions"
    assert shapes(agent)["old_value.0.weight"] == (32, 66)
    assert shapes(agent)["policy.0_norm.weight"] == (16,)
    agent.update(some_batch(agent, side=16))


def test_a_copy_of_a_built_agent_is_built():
    agent = drqv2(*stack())
    other = copy.deepcopy(agent)
    assert isinstance(other, DrQV2)
    theirs = other.eval().forward_all(some_batch(agent))
    for key, value in agent.eval().forward_all(some_batch(agent)).items():
        assert torch.equal(value, theirs[key])
