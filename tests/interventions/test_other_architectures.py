"""Sine and cosine, rational functions, norms, widths: shapes, first weights, what stays."""

from __future__ import annotations

import pytest
import torch
from built import assert_learns, assert_target_is_a_twin, changed, drqv2, shapes, some_batch
from helpers import fit_tiny
from torch import nn
from torch.nn import functional as F

from callbacks import DeepFourierFeatures, LayerNorm, RationalActivation, Reset, WiderNetwork
from plasticity_rl import UserError
from plasticity_rl.nn.activations import Rational, SinCos


def test_fourier_features_halve_the_units_and_keep_what_is_read():
    agent, plain = drqv2(DeepFourierFeatures(modules=["critic"])), drqv2()
    assert shapes(agent)["critic.Q1.0.weight"] == (3, 9)
    assert shapes(agent)["critic.Q1.2.weight"] == (3, 6)
    assert "critic.Q1.4.weight" not in changed(agent, plain)
    assert all(isinstance(agent.critic.Q2[i], SinCos) for i in (1, 3))
    assert_target_is_a_twin(agent)
    assert_learns(agent)


def test_fourier_features_of_an_odd_width_keep_the_larger_half():
    agent = drqv2(DeepFourierFeatures(modules=["critic"]), hidden_dim=5)
    assert shapes(agent)["critic.Q1.0.weight"] == (3, 9)
    assert shapes(agent)["critic.Q1.2.weight"] == (3, 6)
    assert shapes(agent)["critic.Q1.4.weight"] == (1, 6)
    agent.update(some_batch(agent))


def test_rational_functions_are_trained_and_averaged_into_the_target():
    agent, plain = drqv2(RationalActivation()), drqv2()
    coefficients = {n for n, _ in agent.named_parameters() if n.endswith(("numerator", "denominator"))}
    assert len(coefficients) == 2 * (2 + 4 + 4), "2 layers of the actor, 4 of the critic and of its target"
    assert changed(agent, plain) == coefficients
    assert_target_is_a_twin(agent)
    assert_learns(agent)
    online, target = (net.Q1[1].numerator.detach() for net in (agent.critic, agent.critic_target))
    first = Rational("leaky_relu").numerator.detach()
    assert 0 < float((target - first).abs().max()) < float((online - first).abs().max())


def test_a_reset_gives_the_first_coefficients_back(tmp_path):
    class Look(Reset):
        def act(self, agent) -> str:
            text = super().act(agent)
            self.seen = agent.critic.Q1[1].numerator.detach().clone()
            return text

    look = Look(modules=["critic"], at_frames=[150])
    agent = fit_tiny(tmp_path, callbacks=[RationalActivation(modules=["critic"]), look])
    assert torch.equal(look.seen, Rational("leaky_relu").numerator)
    assert not torch.equal(agent.critic.Q1[1].numerator, look.seen)


def test_bad_init_is_refused():
    with pytest.raises(UserError, match=r"init='gelu' must be one of \['relu', 'leaky_relu'\]"):
        RationalActivation(init="gelu")


def test_norms_stand_between_layer_and_activation_and_change_no_weight():
    agent, plain = drqv2(LayerNorm()), drqv2()
    added = changed(agent, plain)
    assert added == {n for n, _ in agent.named_parameters() if "_norm" in n}
    assert [name for name, _ in agent.encoder.convnet.named_children()][:4] == ["0", "0_norm", "1", "2"]
    assert not any("trunk" in name for name in added), "the trunks have a norm"
    assert not any("4_norm" in name for name in added if "critic" in name), "outputs have none"
    x = some_batch(agent)["pixels"]
    convolved = plain.encoder.convnet[0](x.float() / 255 - 0.5)
    expected = F.group_norm(convolved, 1).relu()
    torch.testing.assert_close(agent.encoder.convnet[:3](x.float() / 255 - 0.5), expected)
    assert_target_is_a_twin(agent)
    assert_learns(agent)


def test_a_norm_makes_the_scale_of_the_layer_before_it_irrelevant():
    agent = drqv2(LayerNorm(modules=["critic"]))
    batch = some_batch(agent)
    before = agent.forward_all(batch)["critic"]
    with torch.no_grad():
        agent.critic.Q1[0].weight.mul_(7.0)
        agent.critic.Q1[0].bias.mul_(7.0)
    torch.testing.assert_close(agent.forward_all(batch)["critic"], before, rtol=1e-3, atol=1e-4)


def test_norms_belong_to_the_units_they_normalise():
    agent = drqv2(LayerNorm())
    layer = agent.units("encoder")[-1]
    assert [type(maker) for maker in layer.makers] == [nn.Conv2d, nn.GroupNorm]
    assert layer.size == 4


def test_reset_norms_start_at_one(tmp_path):
    class Look(Reset):
        def act(self, agent) -> str:
            text = super().act(agent)
            norm = agent.critic.Q1.get_submodule("0_norm")
            self.seen = (norm.weight.detach().clone(), norm.bias.detach().clone())
            return text

    look = Look(modules=["critic"], at_frames=[150])
    fit_tiny(tmp_path, callbacks=[LayerNorm(modules=["critic"]), look])
    assert bool((look.seen[0] == 1).all())
    assert bool((look.seen[1] == 0).all())


def test_wider_layers_and_what_reads_them():
    agent, plain = drqv2(WiderNetwork(factor=1.5)), drqv2()
    expected = {
        "encoder.convnet.0.weight": (6, 9, 3, 3),
        "encoder.convnet.2.weight": (6, 6, 3, 3),
        "actor.trunk.0.weight": (7, 54),
        "critic_target.trunk.0.weight": (7, 54),
        "actor.policy.0.weight": (9, 7),
        "actor.policy.4.weight": (2, 9),
        "critic.Q2.2.weight": (9, 9),
    }
    assert {name: shapes(agent)[name] for name in expected} == expected
    kept = set(shapes(agent)) - changed(agent, plain)
    assert {"actor.trunk.0.bias", "critic.Q1.4.bias", "critic.trunk.1.weight"} <= kept
    conv = agent.encoder.convnet[2].weight.detach().flatten(1)
    torch.testing.assert_close(conv @ conv.T, 2 * torch.eye(6), atol=1e-4, rtol=0)  # orthogonal, gain sqrt(2)
    assert_target_is_a_twin(agent)
    assert_learns(agent)


def test_a_factor_of_one_leaves_everything_as_it_was():
    assert changed(drqv2(WiderNetwork(factor=1)), drqv2()) == set()


@pytest.mark.parametrize("factor", [0, -1, float("inf")])
def test_bad_factors_are_refused(factor):
    with pytest.raises(UserError, match=f"WiderNetwork.factor={factor} must be > 0"):
        WiderNetwork(factor=factor)
