"""Layers of another size, and layers between others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from plasticity_rl.surgery import insert_after, resized, size_of


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(3, 4, bias=False), (6, 5)),
        (nn.Conv2d(3, 4, (3, 2), stride=2, padding=1, padding_mode="reflect"), (6, 5, 3, 2)),
        (nn.LayerNorm(4, eps=1e-3), (6,)),
        (nn.GroupNorm(1, 4, eps=1e-3), (6,)),
    ],
)
def test_everything_but_the_size_stays(layer, shape):
    other = resized(layer.double(), 6, 5)
    assert type(other) is type(layer)
    assert other.weight.shape == shape
    assert other.weight.dtype == torch.float64
    assert (other.bias is None) == (layer.bias is None)
    for name in ("stride", "padding", "padding_mode", "eps", "num_groups"):
        assert getattr(other, name, None) == getattr(layer, name, None)
    assert size_of(other) == (6, 6 if len(shape) == 1 else 5)


def test_resizing_draws_no_global_number():
    linear = nn.Linear(2, 2)
    state = torch.get_rng_state()
    resized(linear, 5, 5)
    assert torch.equal(torch.get_rng_state(), state)


def test_other_kinds_are_refused():
    with pytest.raises(TypeError, match="cannot resize"):
        resized(nn.Conv2d(4, 4, 1, groups=2), 4, 4)


def test_a_layer_in_between_renames_no_other():
    sequential = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    layers = dict(sequential.named_children())
    insert_after(sequential, "0", "0_norm", nn.LayerNorm(2))
    assert [name for name, _ in sequential.named_children()] == ["0", "0_norm", "1", "2"]
    assert all(sequential.get_submodule(name) is layer for name, layer in layers.items())
    x = torch.randn(3, 2)
    expected = layers["2"](torch.relu(nn.LayerNorm(2)(layers["0"](x))))
    torch.testing.assert_close(sequential(x), expected)
    insert_after(sequential, "2", "last", nn.Tanh())
    torch.testing.assert_close(sequential(x), expected.tanh())
