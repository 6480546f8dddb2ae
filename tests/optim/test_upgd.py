"""UPGD's optimizer: steps by hand, and a run against the algorithm written out element by element."""

from __future__ import annotations

import copy
import functools
import math

import pytest
import torch
from torch import nn

from plasticity_rl.optim.upgd import UtilityGatedDescent, scaled_utilities
from plasticity_rl.rng import NamedGenerators


def source(seed: int = 0):
    return functools.partial(NamedGenerators(seed).get, "noise")


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def test_scaled_utilities_by_hand():
    utilities = [torch.tensor([[3.0, 4.0], [0.0, -2.0]]), torch.tensor([6.0, 8.0])]
    whole = scaled_utilities(utilities, "global")
    assert whole[0].tolist() == [[0.375, 0.5], [0.0, -0.25]]
    assert whole[1].tolist() == [0.75, 1.0]
    rows = scaled_utilities(utilities, "local")
    torch.testing.assert_close(rows[0], torch.tensor([[0.6, 0.8], [0.0, -1.0]]))
    torch.testing.assert_close(rows[1], torch.tensor([0.6, 0.8]))


def test_a_kernel_is_one_row():
    kernel = torch.arange(16.0).view(2, 2, 2, 2)
    (found,) = scaled_utilities([kernel], "local")
    assert found.view(2, -1).norm(dim=1).tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_where_nothing_is_useful_every_gate_is_a_half(value):
    (found,) = scaled_utilities([torch.full((3,), value)], "global")
    assert found.tolist() == [0.0, 0.0, 0.0]


def test_a_first_step_by_hand():
    """Weights 2, 1, -1 and gradients -1, 1, 1: utilities 2, -1, 1, in units of the largest 1, -1/2, 1/2."""
    p = nn.Parameter(torch.tensor([2.0, 1.0, -1.0]))
    optimizer = UtilityGatedDescent([p], source(), lr=0.1, adaptive=False, sigma=0.0, weight_decay=0.5)
    p.grad = torch.tensor([-1.0, 1.0, 1.0])
    optimizer.step()
    gates = [1 - sigmoid(1.0), 1 - sigmoid(-0.5), 1 - sigmoid(0.5)]
    expected = [w * 0.95 - 0.2 * gate * g for w, gate, g in zip([2, 1, -1], gates, [-1, 1, 1], strict=True)]
    assert p.tolist() == pytest.approx(expected, rel=1e-5)


class WrittenOut:
    """The algorithm in plain numbers."""

    def __init__(self, weights: list[list[list[float]]], scaling: str, adaptive: bool, sigma: float) -> None:
        self.weights, self.scaling, self.adaptive, self.sigma = weights, scaling, adaptive, sigma
        self.slots: dict[tuple, list[float]] = {}
        self.t = 0

    def step(self, gradients, noise, lr=0.05, decay=0.01, beta=0.9) -> None:
        self.t += 1
        corrected = {}
        for k, matrix in enumerate(self.weights):
            for i, row in enumerate(matrix):
                for j, w in enumerate(row):
                    u, m, v = self.slots.get((k, i, j), [0.0, 0.0, 0.0])
                    g = gradients[k][i][j]
                    u, m, v = beta * u + (1 - beta) * -g * w, 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
                    self.slots[k, i, j] = [u, m, v]
                    corrected[k, i, j] = u / (1 - beta**self.t)
        largest = max(corrected.values())
        for (k, i, j), u in corrected.items():
            row = math.sqrt(sum(other**2 for place, other in corrected.items() if place[:2] == (k, i)))
            scaled = u / largest if self.scaling == "global" else u / row
            _, m, v = self.slots[k, i, j]
            direction = gradients[k][i][j]
            if self.adaptive:
                direction = (m / (1 - 0.9**self.t)) / (math.sqrt(v / (1 - 0.999**self.t)) + 1e-8)
            step = 2 * lr * (1 - sigmoid(scaled)) * (direction + self.sigma * noise[k][i][j])
            self.weights[k][i][j] = self.weights[k][i][j] * (1 - lr * decay) - step


@pytest.mark.parametrize("scaling", ["global", "local"])
@pytest.mark.parametrize("adaptive", [True, False])
def test_a_run_is_the_algorithm_written_out(scaling, adaptive):
    generator = torch.Generator().manual_seed(3)
    start = [torch.randn(3, 4, generator=generator), torch.randn(1, 3, generator=generator)]
    parameters = [nn.Parameter(value.clone()) for value in start]
    options = {"lr": 0.05, "weight_decay": 0.01, "beta_utility": 0.9, "sigma": 0.3}
    optimizer = UtilityGatedDescent(parameters, source(), scaling=scaling, adaptive=adaptive, **options)
    slow, same = WrittenOut([value.tolist() for value in start], scaling, adaptive, 0.3), source()(torch.device("cpu"))
    for _ in range(15):
        gradients = [torch.randn(p.shape, generator=generator) for p in parameters]
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g
        optimizer.step()
        noise = [torch.randn(p.shape, generator=same) for p in parameters]
        slow.step([g.tolist() for g in gradients], [n.tolist() for n in noise])
    for p, expected in zip(parameters, slow.weights, strict=True):
        torch.testing.assert_close(p.detach(), torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_noise_moves_what_is_useless_more():
    """Without a direction: the weight that was useful is disturbed less, in all of many draws."""
    p = nn.Parameter(torch.tensor([5.0] * 500 + [0.0] * 500))
    optimizer = UtilityGatedDescent([p], source(), lr=0.1, adaptive=False, sigma=1.0, weight_decay=0.0)
    before = p.detach().clone()
    p.grad = torch.full_like(p, -1e-4)
    optimizer.step()
    moved = (p.detach() - before).abs()
    ratio = float(moved[500:].mean() / moved[:500].mean())
    assert ratio == pytest.approx(0.5 / (1 - sigmoid(1.0)), rel=0.15)


def test_what_has_no_gradient_is_left_alone():
    p, q = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = UtilityGatedDescent([p, q], source(), lr=0.1, weight_decay=0.5, sigma=1.0)
    q.grad = torch.ones(3)
    optimizer.step()
    assert p.tolist() == [1.0, 1.0, 1.0]
    assert p not in optimizer.state
    assert q.tolist() != [1.0, 1.0, 1.0]


def test_a_copy_has_noise_of_its_own_that_is_the_same():
    p = nn.Parameter(torch.ones(5))
    optimizer = UtilityGatedDescent([p], source(), lr=0.1, sigma=1.0)
    p.grad = torch.ones(5)
    optimizer.step()
    twin, copied = copy.deepcopy((optimizer, p))
    for one, parameter in ((optimizer, p), (twin, copied)):
        parameter.grad = torch.ones(5)
        one.step()
    assert torch.equal(p, copied)
