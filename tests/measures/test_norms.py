"""Mean norms, saturation, relative change and the spectrum of a covariance, by hand and by slow versions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plasticity_rl.measures import (
    NotFiniteError,
    covariance_spectrum,
    effective_rank,
    gram_matrix,
    mean_norm,
    relative_change,
    saturated_share,
    srank,
)


def test_mean_norm_by_hand():
    """Rows (3, 4) and (0, 0): norms 5 and 0."""
    assert float(mean_norm(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))) == 2.5
    assert float(mean_norm(torch.tensor([[[3.0], [4.0]], [[0.0], [0.0]]]))) == 2.5, "feature maps are flattened"
    for bad in (torch.zeros(3), torch.zeros(0, 2)):
        with pytest.raises(ValueError, match="not empty"):
            mean_norm(bad)
    with pytest.raises(NotFiniteError):
        mean_norm(torch.tensor([[float("inf")]]))


def test_saturated_share_by_hand():
    """Of 0.96, -0.99, 0.95 and 0, two are above 0.95 in magnitude: at the threshold does not count."""
    outputs = torch.tensor([[0.96, -0.99], [0.95, 0.0]])
    assert float(saturated_share(outputs, 0.95)) == 0.5
    with pytest.raises(ValueError, match="no outputs"):
        saturated_share(torch.zeros(0), 0.95)
    with pytest.raises(NotFiniteError):
        saturated_share(torch.tensor([float("nan")]), 0.95)


def test_relative_change_by_hand():
    """From (3, 4), of norm 5, to (3, 4.5) and beside it from 0 to 0: 0.5 / 5."""
    pair = [torch.tensor([3.0, 4.5]), torch.zeros(2)], [torch.tensor([3.0, 4.0]), torch.zeros(2)]
    assert float(relative_change(*pair)) == pytest.approx(0.1)
    assert float(relative_change([torch.zeros(2)], [torch.zeros(2)])) == 0
    assert float(relative_change([torch.ones(2)], [torch.zeros(2)])) == float("inf")
    with pytest.raises(ValueError, match="shapes differ"):
        relative_change([torch.ones(2)], [torch.ones(3)])


def test_covariance_of_vectors_by_hand():
    """(1, 0), (-1, 0), (0, 0) + (5, 5): the mean goes, eigenvalues are 2/3 and 0."""
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]]) + 5
    found = covariance_spectrum(gram_matrix(rows))
    assert found.singular_values.tolist() == pytest.approx([2 / 3, 0, 0], abs=1e-12)
    assert (effective_rank(found), srank(found)) == pytest.approx((1, 1))
    alike = covariance_spectrum(gram_matrix(torch.ones(3, 2)))
    assert (effective_rank(alike), srank(alike)) == (0, 0)


def test_covariance_agrees_with_numpy():
    rows = np.random.default_rng(3).normal(size=(7, 4)) * [3, 2, 1, 0.1] + 2
    expected = np.sort(np.linalg.eigvalsh(np.cov(rows.T, bias=True)))[::-1]
    found = covariance_spectrum(gram_matrix(torch.from_numpy(rows))).singular_values.numpy()
    assert found[:4] == pytest.approx(expected)
    assert not found[4:].any()
