"""CReLU, sine and cosine, rational functions."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from plasticity_rl.nn.activations import RATIONAL_COEFFICIENTS, CReLU, Rational, SinCos


def test_crelu_puts_negative_parts_behind_positive_ones():
    x = torch.tensor([[1.0, -2.0, 0.0]])
    assert CReLU()(x).tolist() == [[1.0, 0.0, 0.0, 0.0, 2.0, 0.0]]
    assert CReLU()(torch.randn(2, 3, 4, 5)).shape == (2, 6, 4, 5)


def test_sin_cos_by_hand():
    x = torch.tensor([[0.0, torch.pi / 2]])
    torch.testing.assert_close(SinCos()(x), torch.tensor([[0.0, 1.0, 1.0, 0.0]]), atol=1e-7, rtol=0)


@pytest.mark.parametrize(("init", "function"), [("relu", F.relu), ("leaky_relu", lambda x: F.leaky_relu(x, 0.01))])
def test_rational_stays_near_what_it_was_fitted_to(init, function):
    x = torch.linspace(-3, 3, 2001)
    assert float((Rational(init)(x) - function(x)).abs().max().detach()) < 0.031


def test_rational_by_hand():
    """At x = 2 with a = (1, 2, 0, 0, 0, 0), b = (-0.5, 1, 0, 0): P = 1 + 4 = 5, Q = 1 + |-1| + |4| = 6."""
    rational = Rational()
    with torch.no_grad():
        rational.numerator.copy_(torch.tensor([1.0, 2, 0, 0, 0, 0]))
        rational.denominator.copy_(torch.tensor([-0.5, 1, 0, 0]))
    assert float(rational(torch.tensor(2.0)).detach()) == pytest.approx(5 / 6)
    assert float(rational(torch.tensor(-2.0)).detach()) == pytest.approx(-3 / 6), "P(-2) = 1 - 4; Q is the same"


@pytest.mark.parametrize("init", list(RATIONAL_COEFFICIENTS))
def test_rational_agrees_with_sums_of_powers(init):
    x = torch.randn(3, 4, 5, dtype=torch.float64) * 4
    rational = Rational(init).double()
    top = sum(a * x**i for i, a in enumerate(rational.numerator))
    bottom = 1 + sum((b * x**j).abs() for j, b in enumerate(rational.denominator, start=1))
    torch.testing.assert_close(rational(x), top / bottom, rtol=1e-12, atol=0)


def test_rational_coefficients_are_trained_and_come_back():
    rational = Rational("leaky_relu")
    first = {name: p.detach().clone() for name, p in rational.named_parameters()}
    torch.optim.SGD(rational.parameters(), lr=0.1)
    rational(torch.randn(10)).sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in rational.parameters())
    nn.init.zeros_(rational.numerator)
    rational.reset_parameters()
    assert all(torch.equal(p, first[name]) for name, p in rational.named_parameters())
