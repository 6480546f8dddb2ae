"""Norms and distances, by hand and against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plasticity_rl.measures import distance, l0_norm, l1_norm, l2_norm

TENSORS = [torch.tensor([[3.0, 0.0], [0.0, -4.0]]), torch.tensor([12.0])]


def test_norms_by_hand():
    # Entries 3, 0, 0, -4, 12: three are not zero, 3 + 4 + 12 = 19, 9 + 16 + 144 = 169 = 13^2.
    assert [float(norm(TENSORS)) for norm in (l0_norm, l1_norm, l2_norm)] == [3.0, 19.0, 13.0]


def test_distance_by_hand():
    # Differences 3, -4 and 0.
    one = [torch.tensor([1.0, 2.0]), torch.tensor([[5.0]])]
    other = [torch.tensor([-2.0, 6.0]), torch.tensor([[5.0]])]
    assert float(distance(one, other)) == float(distance(other, one)) == 5.0
    assert float(distance(one, one)) == 0.0


def test_norms_agree_with_numpy():
    generator = torch.Generator().manual_seed(1)
    tensors = [torch.randn(size, generator=generator) for size in [(3, 4), (5,), (2, 1, 6)]]
    joined = np.concatenate([tensor.double().numpy().ravel() for tensor in tensors])
    for norm, order in ((l0_norm, 0), (l1_norm, 1), (l2_norm, 2)):
        assert float(norm(tensors)) == pytest.approx(np.linalg.norm(joined, order))


@pytest.mark.parametrize("norm", [l0_norm, l1_norm, l2_norm])
def test_nothing_and_zeros_have_norm_zero(norm):
    assert float(norm([])) == float(norm([torch.zeros(3, 3)])) == float(norm([torch.zeros(0)])) == 0.0


@pytest.mark.parametrize("measure", [l0_norm, l1_norm, l2_norm, lambda tensors: distance(tensors, tensors)])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_not_finite_is_refused(measure, bad):
    with pytest.raises(ValueError, match="hold NaN or infinity"):
        measure([torch.ones(2), torch.tensor([1.0, bad])])


def test_finite_entries_whose_norm_overflows_are_not_refused():
    assert float(l2_norm([torch.tensor([1e200, 1e200], dtype=torch.float64)])) > 1e200  # infinite, or as it should be
    assert float(l2_norm([torch.tensor([3e38, 0.0])])) == pytest.approx(3e38)


def test_whole_numbers_are_counted_as_they_are():
    assert [float(norm([torch.tensor([3, 0, -4])])) for norm in (l0_norm, l1_norm, l2_norm)] == [2.0, 7.0, 5.0]


@pytest.mark.parametrize("norm", [l0_norm, l1_norm, l2_norm, lambda tensors: distance(tensors, tensors)])
def test_a_norm_of_many_tensors_is_waited_for_once(norm, monkeypatch):
    waits = []
    for name in ("__bool__", "__float__", "item", "cpu"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda x, original=original: waits.append(1) or original(x))
    norm([torch.ones(2)] * 20)
    assert len(waits) == 1


def test_distance_of_different_things_is_refused():
    with pytest.raises(ValueError, match=r"shapes differ: \(2,\) and \(1,\)"):
        distance([torch.ones(2)], [torch.ones(1)])
    with pytest.raises(ValueError, match="zip"):
        distance([torch.ones(2)], [])


def test_sums_do_not_overflow_in_half_precision_and_keep_no_gradient():
    weight = torch.full((1000,), 200.0, dtype=torch.float16, requires_grad=True)
    assert float(l2_norm([weight])) == pytest.approx(200 * 1000**0.5)
    assert not l2_norm([weight]).requires_grad
