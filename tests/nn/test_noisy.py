"""Noisy linear layers: the noise by hand, only where it is asked for, from a generator of one's own."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from plasticity_rl.nn.noisy import NoisyLinear, noise_in


def generator(seed=3):
    return torch.Generator().manual_seed(seed)


def test_the_noise_is_that_of_the_paper():
    layer = NoisyLinear(3, 2, sigma=0.5)
    assert torch.allclose(layer.weight_sigma, torch.full((2, 3), 0.5 / 3**0.5))
    assert torch.allclose(layer.bias_sigma, torch.full((2,), 0.5 / 3**0.5))
    x = torch.randn(4, 3)
    g = generator()
    into, out = torch.randn(3, generator=g), torch.randn(2, generator=g)
    f = lambda e: torch.tensor([(1 if v > 0 else -1) * abs(v) ** 0.5 for v in e.tolist()])  # noqa: E731
    weight = torch.empty(2, 3)
    for row in range(2):
        for column in range(3):
            weight[row, column] = (
                layer.weight[row, column] + layer.weight_sigma[row, column] * f(out)[row] * f(into)[column]
            )
    bias = layer.bias + layer.bias_sigma * f(out)
    with noise_in(layer, generator()):
        assert torch.allclose(layer(x), x @ weight.T + bias, atol=1e-6)


def test_without_it_the_means_decide_and_nothing_is_drawn():
    net = nn.Sequential(NoisyLinear(3, 8, 0.5), nn.ReLU(), NoisyLinear(8, 2, 0.5))
    x, g = torch.randn(4, 3), generator()
    means = F.linear(F.relu(F.linear(x, net[0].weight, net[0].bias)), net[2].weight, net[2].bias)
    with noise_in(net, g):
        assert not torch.equal(net(x), means)
        assert not torch.equal(net[0].noise[0], net[2].noise[1])
    assert torch.equal(net(x), means)
    with noise_in(net, None):
        assert torch.equal(net(x), means)
    before = g.get_state()
    with noise_in(nn.Linear(3, 2), g):
        pass
    assert torch.equal(g.get_state(), before)


def test_the_scale_of_the_noise_learns():
    layer = NoisyLinear(3, 2, 0.5)
    with noise_in(layer, generator()):
        layer(torch.randn(4, 3)).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in (layer.weight, layer.bias, layer.weight_sigma, layer.bias_sigma))
