"""Gradient interference and kernels on vectors made by hand, against numpy, and at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import plasticity_rl.measures.kernels
from plasticity_rl.measures import condition_number, cosine_similarities, gram_matrix, interference, srank

# Lengths 5, 2 and 1. Inner products 6, -4 and 0; cosines 6/10 = 0.6, -4/5 = -0.8 and 0.
ROWS = torch.tensor([[3.0, 4.0], [2.0, 0.0], [0.0, -1.0]])


def test_inner_products_and_cosines_by_hand():
    gram = gram_matrix(ROWS)
    assert gram.tolist() == [[25.0, 6.0, -4.0], [6.0, 4.0, 0.0], [-4.0, 0.0, 1.0]]
    expected = torch.tensor([[1.0, 0.6, -0.8], [0.6, 1.0, 0.0], [-0.8, 0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(cosine_similarities(gram), expected)


def test_interference_by_hand():
    found = interference(gram_matrix(ROWS))
    assert found.mean_cosine == pytest.approx((0.6 - 0.8 + 0.0) / 3)
    assert found.negative_fraction == pytest.approx(1 / 3)
    assert found.mean_negative == pytest.approx(-0.8)


def test_interference_of_equal_opposite_and_missing_gradients():
    equal = interference(gram_matrix(torch.ones(4, 3)))
    assert (equal.mean_cosine, equal.negative_fraction, equal.mean_negative) == (pytest.approx(1.0), 0.0, 0.0)
    opposite = interference(gram_matrix(torch.tensor([[1.0, 2.0], [-2.0, -4.0]])))
    assert opposite.mean_cosine == opposite.mean_negative == pytest.approx(-1.0)
    assert opposite.negative_fraction == 1.0
    none = interference(gram_matrix(torch.zeros(3, 5)))
    assert (none.mean_cosine, none.negative_fraction, none.mean_negative) == (0.0, 0.0, 0.0)


def test_interference_agrees_with_numpy_pair_by_pair():
    rows = np.random.default_rng(1).normal(size=(7, 20))
    pairs = [(i, j) for i in range(7) for j in range(i)]
    cosines = np.array([rows[i] @ rows[j] / np.linalg.norm(rows[i]) / np.linalg.norm(rows[j]) for i, j in pairs])
    found = interference(gram_matrix(torch.from_numpy(rows)))
    assert found.mean_cosine == pytest.approx(cosines.mean())
    assert found.negative_fraction == pytest.approx((cosines < 0).mean())
    assert found.mean_negative == pytest.approx(cosines[cosines < 0].mean())


def test_blocks_of_columns_give_the_same(monkeypatch):
    rows = torch.randn(5, 100, generator=torch.Generator().manual_seed(2))
    whole = gram_matrix(rows)
    monkeypatch.setattr(plasticity_rl.measures.kernels, "_COLUMNS_AT_ONCE", 7)
    torch.testing.assert_close(gram_matrix(rows), whole)
    torch.testing.assert_close(whole, torch.from_numpy(rows.double().numpy() @ rows.double().numpy().T))


def test_condition_number_by_hand_and_against_numpy():
    assert condition_number(torch.diag(torch.tensor([8.0, 2.0, 4.0]))) == pytest.approx(4.0)
    # Eigenvalues of [[2, 1], [1, 2]]: 3 and 1.
    assert condition_number(torch.tensor([[2.0, 1.0], [1.0, 2.0]])) == pytest.approx(3.0)
    kernel = gram_matrix(torch.randn(6, 9, generator=torch.Generator().manual_seed(3)))
    assert condition_number(kernel) == pytest.approx(np.linalg.cond(kernel.numpy()))


def test_a_singular_kernel_has_no_finite_condition_number():
    rows = torch.randn(3, 9, generator=torch.Generator().manual_seed(4))
    assert condition_number(gram_matrix(torch.cat([rows, rows[:1]]))) == math.inf
    assert condition_number(torch.zeros(3, 3)) == math.inf
    assert condition_number(torch.tensor([[5.0]])) == 1.0
    rank_one = gram_matrix(torch.outer(torch.arange(1.0, 5.0), torch.ones(7)))
    assert condition_number(rank_one) == math.inf
    assert srank(rank_one) == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_not_finite_is_refused(bad):
    rows = ROWS.clone()
    rows[1, 1] = bad
    with pytest.raises(ValueError, match="the gradients hold NaN or infinity"):
        gram_matrix(rows)
    for measure in (cosine_similarities, interference, condition_number):
        with pytest.raises(ValueError, match="the inner products hold NaN or infinity"):
            measure(torch.full((2, 2), bad))


def test_what_is_no_kernel_and_no_pair_is_refused():
    for shape in [(3,), (0, 4), (4, 0)]:
        with pytest.raises(ValueError, match="rows must be a matrix"):
            gram_matrix(torch.ones(shape))
    with pytest.raises(ValueError, match="square matrix"):
        condition_number(torch.ones(2, 3))
    with pytest.raises(ValueError, match="at least two inputs"):
        interference(torch.ones(1, 1))
