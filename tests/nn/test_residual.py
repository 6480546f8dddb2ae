"""Residual blocks and running statistics, by hand."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from plasticity_rl.nn.layers import layers_from_output
from plasticity_rl.nn.residual import Residual, RunningNorm
from plasticity_rl.nn.units import layers_into_streams, unit_layers


def test_a_block_adds_what_its_layers_make():
    """f(x) = 2 * relu(x): x + f(x) is 3 where x = 1, and -1 where x = -1."""
    double = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        double.weight.copy_(2 * torch.eye(2))
    assert Residual(nn.ReLU(), double)(torch.tensor([[1.0, -1.0]])).tolist() == [[3.0, -1.0]]


def test_statistics_by_hand():
    """Of 1, 3 and 5 (in two portions) the mean is 3 and the variance 8/3, but for the first count of 0.0001."""
    norm = RunningNorm(1)
    for portion in ([1.0, 3.0], [5.0]):
        away = torch.tensor(portion, dtype=torch.float64)[:, None] - norm.mean
        norm.update(away.mean(0), away.square().mean(0), len(portion))
    n, m = 1e-4, 3
    mean = 9 / (n + m)
    assert float(norm.mean) == pytest.approx(mean, rel=1e-12)
    # Second moments about zero: that of the start is 1.
    assert float(norm.var) == pytest.approx((n * 1 + 35) / (n + m) - mean**2, rel=1e-12)
    assert float(norm.count) == pytest.approx(3.0001)
    value = float(norm(torch.tensor([[5.0]])))
    assert value == pytest.approx(2 / math.sqrt(8 / 3), rel=1e-3)


def test_it_starts_as_the_identity_and_leaves_what_lies_behind_alone():
    norm, x = RunningNorm(2), torch.tensor([[2.0, -4.0, 7.0]])
    torch.testing.assert_close(norm(x), x)
    norm.mean.fill_(1.0)
    norm.var.fill_(4.0)
    torch.testing.assert_close(norm(x), torch.tensor([[0.5, -2.5, 7.0]]))
    assert norm(x).dtype == torch.float32


def test_a_pass_changes_no_statistics():
    norm = RunningNorm(2).train()
    before = copy.deepcopy(norm.state_dict())
    norm(torch.randn(9, 2) * 5)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    assert set(before) == {"mean", "var", "count"}, "they are in a checkpoint"


def test_millions_of_observations_still_count():
    """The mean after ten million zeros and as many ones is one half; in float32 it would stand still long before."""
    norm = RunningNorm(1)
    norm.count.fill_(1e7)
    for _ in range(1000):
        away = 1.0 - norm.mean
        norm.update(away, away.square(), 10_000)
    assert float(norm.mean) == pytest.approx(0.5, rel=1e-9)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        block = lambda: Residual(nn.LayerNorm(3), nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 3))  # noqa: E731
        self.Q1 = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), block(), block(), nn.LayerNorm(3), nn.Linear(3, 1))
        self.Q2 = copy.deepcopy(self.Q1)


def test_the_stream_has_no_units_and_blocks_have():
    net = Net()
    streams = {id(layer) for layer in layers_into_streams(net)}
    assert streams == {id(head[index]) for head in (net.Q1, net.Q2) for index in (1, 2)}, "and the first of two blocks"
    blocks = [net.Q1[2], net.Q1[3], net.Q2[2], net.Q2[3]]
    found = unit_layers(net, "net", [block[2] for block in blocks])
    assert [layer.name for layer in found] == ["net.Q1.2.2", "net.Q1.3.2", "net.Q2.2.2", "net.Q2.3.2"]
    for layer, block in zip(found, blocks, strict=True):
        assert layer.makers == (block[1],)
        assert [(reader.layer, reader.inputs) for reader in layer.readers] == [(block[3], 5)]


def test_layers_from_the_output_go_through_the_blocks_of_both_heads_together():
    """Two equal blocks one behind the other are two steps of two layers each, and no heads side by side."""
    steps = [[path for path in step if not path.endswith("_norm")] for step in layers_from_output(Net(), "net")]
    assert [len(step) for step in steps] == [2, 4, 2, 4, 2, 4], "from the output, both heads; four where a norm follows"
    assert steps[0] == ["net.Q1.5", "net.Q2.5"]
    assert steps[1] == ["net.Q1.3.3", "net.Q1.4", "net.Q2.3.3", "net.Q2.4"], "the last norm stands behind it"
    assert steps[-1] == ["net.Q1.0", "net.Q1.2.0", "net.Q2.0", "net.Q2.2.0"]
