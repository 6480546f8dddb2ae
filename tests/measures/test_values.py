"""Sizes and changes of outputs, and discounted returns, by hand and against numpy and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
import torch

from plasticity_rl.measures import discounted_return, mean_absolute, mean_absolute_difference, spread


def test_by_hand():
    values = torch.tensor([[1.0, -2.0], [3.0, 0.0]])
    assert float(mean_absolute(values)) == 6 / 4
    assert float(spread(values)) == pytest.approx(((0.25 + 6.25 + 6.25 + 0.25) / 4) ** 0.5)  # the mean is 1/2
    assert float(mean_absolute_difference(values, torch.tensor([[1.0, 0.0], [2.0, 1.0]]))) == (0 + 2 + 1 + 1) / 4
    assert discounted_return([1.0, 2.0, 4.0], 0.5) == 1 + 1 + 1


def test_edges():
    assert float(spread(torch.tensor([5.0]))) == 0.0
    assert float(mean_absolute(torch.zeros(3))) == 0.0
    assert discounted_return([], 0.9) == 0.0
    assert discounted_return([3.0, 5.0], 0.0) == 3.0
    assert discounted_return([3.0, 5.0], 1.0) == 8.0


def test_agreement_with_numpy_and_scipy():
    rng = np.random.default_rng(1)
    one, other, rewards = rng.normal(size=(6, 2)), rng.normal(size=(6, 2)), rng.normal(size=500)
    assert float(mean_absolute(torch.from_numpy(one))) == pytest.approx(np.abs(one).mean())
    assert float(spread(torch.from_numpy(one))) == pytest.approx(np.std(one))
    difference = mean_absolute_difference(torch.from_numpy(one), torch.from_numpy(other))
    assert float(difference) == pytest.approx(np.abs(one - other).mean())
    # Returns-to-go are an all-pole filter over the reversed rewards; the last output belongs to the first reward.
    expected = scipy.signal.lfilter([1.0], [1.0, -0.99], rewards[::-1])[-1]
    assert discounted_return(rewards.tolist(), 0.99) == pytest.approx(expected)


MEASURES = [mean_absolute, spread, lambda values: mean_absolute_difference(values, torch.ones_like(values))]


@pytest.mark.parametrize("measure", MEASURES)
def test_bad_input_is_refused(measure):
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="the values hold NaN or infinity"):
            measure(torch.tensor([1.0, bad]))
    with pytest.raises(ValueError, match="there are no values"):
        measure(torch.zeros(0))
    assert not measure(torch.ones(3, requires_grad=True)).requires_grad


def test_nothing_is_broadcast_and_discounts_are_checked():
    with pytest.raises(ValueError, match=r"shapes differ: \(4, 1\) and \(4,\)"):
        mean_absolute_difference(torch.ones(4, 1), torch.ones(4))
    for discount in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="discount="):
            discounted_return([1.0], discount)
