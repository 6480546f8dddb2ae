"""Shrink and perturb: the arithmetic, and fresh weights without a trace."""

from __future__ import annotations

import copy

import torch
from torch import nn

from plasticity_rl.agents.drqv2.networks import Actor, Critic, Encoder
from plasticity_rl.nn.blocks import init_weights
from plasticity_rl.surgery import draw_fresh, reinitialize, shrink_and_perturb


def test_by_hand():
    theta = [torch.tensor([[1.0, -2.0]], requires_grad=True), torch.tensor([4.0])]
    psi = [torch.tensor([[10.0, 20.0]]), torch.tensor([0.0])]
    identities = [id(p) for p in theta]
    shrink_and_perturb(theta, psi, 0.5, 0.25)
    # 0.5 * 1 + 0.25 * 10 = 3; 0.5 * -2 + 0.25 * 20 = 4; 0.5 * 4 + 0 = 2
    assert theta[0].tolist() == [[3.0, 4.0]]
    assert theta[1].tolist() == [2.0]
    assert identities == [id(p) for p in theta]
    assert theta[0].requires_grad
    assert theta[0].grad_fn is None
    assert psi[0].tolist() == [[10.0, 20.0]]


def test_extremes():
    theta, psi = torch.tensor([0.1, -0.7]), torch.tensor([3.0, 5.0])
    kept = theta.clone()
    shrink_and_perturb([theta], [psi], 1.0, 0.0)
    assert torch.equal(theta, kept)
    shrink_and_perturb([theta], [psi], 0.0, 1.0)
    assert torch.equal(theta, psi)


def test_fresh_weights_are_those_of_a_reset_and_the_module_stays():
    for module in (Encoder((9, 20, 20), 4), Actor(30, 2, 8, 16), Critic(30, 2, 8, 16)):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.5)
        kept = {name: (id(p), p.data_ptr(), p.detach().clone()) for name, p in module.named_parameters()}
        fresh = draw_fresh(module, init_weights, torch.Generator().manual_seed(3))
        for name, parameter in module.named_parameters():
            identity, pointer, value = kept[name]
            assert (id(parameter), parameter.data_ptr()) == (identity, pointer)
            assert torch.equal(parameter, value)
            assert parameter.requires_grad
        twin = copy.deepcopy(module)
        reinitialize(twin, init_weights, torch.Generator().manual_seed(3))
        assert fresh.keys() == kept.keys()
        assert all(torch.equal(fresh[name], p) for name, p in twin.named_parameters())
        assert not any(value.requires_grad for value in fresh.values())


def test_running_statistics_stay_while_fresh_weights_are_drawn():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    module(torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0)))  # moves them
    kept = copy.deepcopy(module.state_dict())
    assert kept["1.running_mean"].any()
    fresh = draw_fresh(module, init_weights, torch.Generator().manual_seed(3))
    assert fresh.keys() == dict(module.named_parameters()).keys()
    assert all(torch.equal(value, kept[name]) for name, value in module.state_dict().items())


def test_each_draw_is_another_one():
    module, generator = Critic(30, 2, 8, 16), torch.Generator().manual_seed(3)
    one, two = (draw_fresh(module, init_weights, generator)["Q1.0.weight"] for _ in range(2))
    assert not torch.equal(one, two)
