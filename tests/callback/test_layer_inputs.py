"""Means over a batch that is passed through the networks in parts, against the whole batch at once."""

from __future__ import annotations

import math

import pytest
import torch
from bare import BareAgent

from callbacks import FeatureNorm, TanhSaturation
from plasticity_rl.callback.layer_inputs import PART, means_by_layer
from plasticity_rl.nn.hooks import evaluation_mode


def parts_of(agent: BareAgent) -> list[int]:
    """Return a list that fills with the sizes of the batches that the agent is run on."""
    sizes: list[int] = []
    run = agent.forward_all
    agent.forward_all = lambda batch: (sizes.append(len(batch)), run(batch))[1]
    return sizes


def whole(agent: BareAgent, layer: torch.nn.Module, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a layer is given and puts out on the probe batch."""
    seen = []
    handle = layer.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].clone(), output.clone())))
    with evaluation_mode(agent), torch.no_grad():
        agent.forward_all(agent.probe_batch(size))
    handle.remove()
    return seen[0]


def test_a_large_batch_is_seen_in_parts_and_gives_the_norms_of_the_whole():
    agent, size = BareAgent(), 2 * PART + 40
    probe = FeatureNorm(batch_size=size)
    probe.resolve(agent)
    expected = {}
    for name, layer in (("encoder", agent.encoder.convnet[7]), ("critic.Q1", agent.critic.Q1[3])):
        given, features = whole(agent, layer, size)
        expected[f"feature_norm/{name}"] = float(features.flatten(1).double().norm(dim=1).mean())
        expected[f"preactivation_norm/{name}"] = float(given.flatten(1).double().norm(dim=1).mean())
    sizes = parts_of(agent)
    found = probe.measure(agent, None, None)
    assert sizes == [PART, PART, 40]
    for tag, value in expected.items():
        assert float(found[tag]) == pytest.approx(value, rel=1e-5), tag


def test_nothing_of_the_size_of_an_activation_is_kept():
    """Of four passes over one batch no tensor remains but numbers."""
    agent, kept = BareAgent(), []

    def measure(values: torch.Tensor) -> torch.Tensor:
        kept.append(values.numel())
        return values.double().mean()

    layers = {"first": agent.encoder.convnet[1], "last": agent.critic.Q1[3]}
    means = means_by_layer(agent, layers, 8, measure)
    assert max(kept) > 1000
    assert {value.numel() for pair in means.values() for value in pair} == {1}


def test_a_share_of_a_large_batch_is_that_of_the_whole():
    agent, size = BareAgent(), PART + 7
    probe = TanhSaturation(batch_size=size, threshold=0.2)
    probe.resolve(agent)
    _, outputs = whole(agent, agent.critic.trunk[2], size)
    with torch.no_grad():
        actions = agent.forward_all(agent.probe_batch(size))["actor"]
    sizes = parts_of(agent)
    found = probe.measure(agent, None, None)
    assert sizes == [PART, 7], "one pass for the layers and the policy"
    assert float(found["policy_saturation/actor"]) == pytest.approx(float((actions.abs() > 0.2).double().mean()))
    share = float((outputs.abs() > 0.2).double().mean())
    assert 0 < share < 1
    assert float(found["tanh_saturation/critic/trunk.2"]) == pytest.approx(share, rel=1e-6)


def test_values_that_are_not_finite_give_nan_there_and_nowhere_else():
    agent = BareAgent()
    with torch.no_grad():
        agent.critic.Q1[2].bias[0] = math.inf
    probe = FeatureNorm(batch_size=8, modules=["critic.Q1", "critic.Q2"])
    found = probe.measure(agent, None, None)
    assert math.isnan(float(found["feature_norm/critic.Q1"]))
    assert math.isfinite(float(found["feature_norm/critic.Q2"]))
