"""Fraction of active units on activations made by hand."""

from __future__ import annotations

import pytest
import torch

from plasticity_rl.measures import active_and_total, fraction_active_units, nan_unless_finite, pooled_fraction


def test_active_means_above_zero():
    active, total = active_and_total(torch.tensor([[0.0, 1e-30, -1.0], [2.0, float("inf"), -0.0]]))
    assert (active.dtype, int(active), total) == (torch.int64, 3, 6)


def test_counts_are_exact_where_float32_would_round():
    active, total = active_and_total(torch.ones(2**24 + 3, dtype=torch.uint8))
    assert int(active) == total == 2**24 + 3


def test_layers_are_pooled_by_element_not_averaged():
    convolution = torch.zeros(2, 3, 4, 4)  # 96 elements
    convolution[0, 0, 0, :3] = 1.0
    hidden = torch.tensor([[1.0, 1.0], [1.0, 0.0]])  # 4 elements
    assert float(fraction_active_units([convolution, hidden])) == pytest.approx(6 / 100)
    mean_of_layers = (3 / 96 + 3 / 4) / 2
    assert abs(6 / 100 - mean_of_layers) > 0.3


def test_a_unit_counts_for_every_input_it_is_active_on():
    """Not "active for any input": one unit of two, on one input of four, is 1/8."""
    activation = torch.zeros(4, 2)
    activation[2, 1] = 5.0
    assert float(fraction_active_units([activation])) == 1 / 8


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_not_finite_is_refused_by_the_fraction_and_not_above_zero_in_the_count(bad):
    """The count runs inside an update and must not wait for a GPU."""
    layer = torch.tensor([[1.0, bad], [0.0, 2.0]])
    with pytest.raises(ValueError, match="the activations hold NaN or infinity"):
        fraction_active_units([torch.ones(2, 2), layer])
    assert int(active_and_total(layer)[0]) == (2 if bad != bad else 3)


def test_nan_marks_what_is_not_finite():
    value, good = torch.tensor(0.25), torch.ones(2, 3)
    assert float(nan_unless_finite(value, [good, good])) == 0.25
    for bad in (float("nan"), float("inf"), float("-inf")):
        assert nan_unless_finite(value, [good, torch.tensor([0.0, bad])]).isnan()


@pytest.mark.parametrize(("value", "expected"), [(0.0, 0.0), (1.0, 1.0), (-1.0, 0.0)])
def test_ends_of_the_range(value, expected):
    assert float(fraction_active_units([torch.full((3, 5), value), torch.full((2, 2, 2), value)])) == expected


def test_pooled_fraction_of_counts():
    counts = [(torch.tensor(1), 10), (torch.tensor(30), 40)]
    assert float(pooled_fraction(counts)) == pytest.approx(31 / 50)
    with pytest.raises(ValueError, match="unpack"):
        pooled_fraction([])


def test_nothing_is_changed_and_no_gradient_is_kept():
    activation = torch.randn(4, 4, requires_grad=True)
    before = activation.detach().clone()
    result = fraction_active_units([activation])
    assert not result.requires_grad
    assert torch.equal(activation, before)
