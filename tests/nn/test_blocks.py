"""Blocks of the agents' networks: how their layers start, and how many parameters they have."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from plasticity_rl.nn.blocks import count_mlp_parameters, init_weights, mlp, trunk


@pytest.mark.parametrize(
    ("layer", "gain_squared"),
    [(nn.Linear(7, 4), 1.0), (nn.Linear(4, 7), 1.0), (nn.Conv2d(3, 5, 3), 2.0), (nn.Conv2d(1, 16, 3), 2.0)],
    ids=["wide", "tall", "conv-wide", "conv-tall"],
)
def test_init_is_orthogonal_with_its_gain(layer: nn.Module, gain_squared: float):
    nn.init.constant_(layer.bias, 3.0)
    init_weights(layer)
    matrix = layer.weight.detach().flatten(1)
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    torch.testing.assert_close(matrix @ matrix.T, gain_squared * torch.eye(len(matrix)), rtol=0, atol=1e-5)
    assert not layer.bias.any()


def test_init_of_layer_norm_is_the_identity():
    norm = nn.LayerNorm(4)
    nn.init.constant_(norm.weight, 5.0)
    nn.init.constant_(norm.bias, 5.0)
    init_weights(norm)
    assert norm.weight.tolist() == [1.0] * 4
    assert norm.bias.tolist() == [0.0] * 4


@pytest.mark.parametrize(
    "layer",
    [nn.Linear(3, 2, bias=False), nn.LayerNorm(3, bias=False), nn.LayerNorm(3, elementwise_affine=False), nn.ReLU()],
    ids=["linear-no-bias", "norm-no-bias", "norm-no-parameters", "relu"],
)
def test_init_accepts_layers_with_missing_parameters(layer: nn.Module):
    init_weights(layer)


def test_init_touches_the_layer_only_and_not_its_children():
    block = nn.Sequential(nn.Linear(3, 3))
    before = block[0].weight.detach().clone()
    init_weights(block)
    assert torch.equal(block[0].weight, before)


@pytest.mark.parametrize("layer", [nn.Linear(4, 4), nn.Conv2d(2, 4, 3)])
def test_init_draws_from_the_given_generator_only(layer: nn.Module):
    def fresh(seed: int) -> torch.Tensor:
        init_weights(layer, torch.Generator().manual_seed(seed))
        return layer.weight.detach().clone()

    state = torch.get_rng_state()
    first, again, other = fresh(1), fresh(1), fresh(2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_count_is_that_of_the_network():
    assert count_mlp_parameters(5, 7, 2) == sum(p.numel() for p in mlp(5, 7, 2).parameters())


def test_a_trunk_puts_out_numbers_within_one():
    out = trunk(6, 3)(100 * torch.randn(20, 6))
    assert out.shape == (20, 3)
    assert out.abs().max() <= 1
