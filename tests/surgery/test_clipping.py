"""Clipped weights: the bound of each layer, in place, and the fraction outside."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from plasticity_rl.surgery import clip_weights


def test_by_hand():
    layer = nn.Linear(4, 2)  # bound 1 / sqrt(4) * 3 = 1.5
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.5, 1.6, -1.4, -9.0], [0.0, 0.1, 1.49, -1.5]]))
        layer.bias.copy_(torch.tensor([2.0, -0.5]))
    identities = [id(p) for p in layer.parameters()]
    fraction = clip_weights([layer], 3.0)
    assert layer.weight.tolist() == [pytest.approx([1.5, 1.5, -1.4, -1.5]), pytest.approx([0.0, 0.1, 1.49, -1.5])]
    assert layer.bias.tolist() == [1.5, -0.5]
    assert float(fraction) == pytest.approx(3 / 10)  # 1.6, -9 and 2 of 8 weights and 2 biases
    assert identities == [id(p) for p in layer.parameters()]
    assert float(clip_weights([layer], 3.0)) == 0.0


def test_convolutions_and_several_layers_have_a_bound_each():
    conv, linear = nn.Conv2d(4, 2, 3), nn.Linear(100, 3, bias=False)  # fan_in 36 and 100
    with torch.no_grad():
        for parameter in (*conv.parameters(), *linear.parameters()):
            parameter.fill_(-7.0)
    assert float(clip_weights([conv, linear], 3.0)) == 1.0
    for layer, bound in ((conv, 0.5), (linear, 0.3)):
        for parameter in layer.parameters():
            assert torch.equal(parameter, torch.full_like(parameter, -bound))


def test_pytorchs_own_initialisation_is_inside_kappa_one():
    torch.manual_seed(0)
    layer = nn.Linear(9, 50)
    before = layer.weight.detach().clone()
    assert float(clip_weights([layer], 1.0)) == 0.0
    assert torch.equal(layer.weight, before)
