"""Layers with first weights of their own, whoever draws them."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from plasticity_rl.nn.blocks import init_weights
from plasticity_rl.nn.noisy import NoisyLinear
from plasticity_rl.nn.starts import draw_start, mark_start, start_of
from plasticity_rl.surgery import fresh_layer, reinitialize, resized


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_he_normal_has_its_variance_and_its_bound():
    layer = nn.Linear(400, 1000)
    draw_start(layer, "he_normal", generator())
    stddev = math.sqrt(2 / 400)
    assert float(layer.weight.detach().std()) == pytest.approx(stddev, rel=0.01)
    assert float(layer.weight.detach().abs().max()) <= 2 * stddev / 0.8796 * 1.0001
    assert not layer.bias.any()


def test_orthogonal_is_scaled_by_the_root_of_two():
    layer = nn.Linear(6, 4)
    draw_start(layer, "orthogonal", generator())
    torch.testing.assert_close(layer.weight @ layer.weight.T, 2 * torch.eye(4), atol=1e-5, rtol=0)


def test_a_mark_survives_copies_and_another_size_and_decides_at_every_draw():
    marked = mark_start(nn.Linear(6, 4), "orthogonal")
    assert start_of(nn.Linear(6, 4)) is None
    for layer in (marked, copy.deepcopy(marked), resized(marked, 4, 8)):
        assert start_of(layer) == "orthogonal"
        reinitialize(layer, init_weights, generator())
        torch.testing.assert_close(layer.weight @ layer.weight.T, 2 * torch.eye(4), atol=1e-5, rtol=0)
    fresh = fresh_layer(marked, init_weights, generator(3))
    torch.testing.assert_close(fresh.weight @ fresh.weight.T, 2 * torch.eye(4), atol=1e-5, rtol=0)
    assert not torch.equal(fresh.weight, marked.weight)


def test_the_noise_of_a_noisy_layer_starts_as_at_first():
    layer = mark_start(NoisyLinear(4, 3, 0.5), "he_normal")
    with torch.no_grad():
        layer.weight_sigma.zero_()
    reinitialize(layer, init_weights, generator())
    assert bool((layer.weight_sigma == 0.25).all()), "0.5 / sqrt(4)"
    assert start_of(resized(layer, 5, 4)) == "he_normal"
