"""Ranks on matrices with known singular values, against numpy, and at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from plasticity_rl.measures import (
    Spectrum,
    approximate_rank,
    effective_rank,
    feature_rank,
    spectrum,
    srank,
    stable_rank,
)

RANKS = [srank, approximate_rank, feature_rank, effective_rank, stable_rank]


def with_spectrum(values: list[float], rows: int, columns: int, seed: int = 0) -> Tensor:
    """A float64 matrix in general position with these singular values, the others being zero."""
    rng = np.random.default_rng(seed)
    left, _ = np.linalg.qr(rng.normal(size=(rows, rows)))
    right, _ = np.linalg.qr(rng.normal(size=(columns, columns)))
    middle = np.zeros((rows, columns))
    middle[range(len(values)), range(len(values))] = values
    return torch.from_numpy(left @ middle @ right)


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 5), (3, 2000)])
def test_spectrum_is_that_of_numpy(shape):
    matrix = np.random.default_rng(3).normal(size=shape)
    found = spectrum(torch.from_numpy(matrix))
    assert found.singular_values.numpy() == pytest.approx(np.linalg.svd(matrix, compute_uv=False))
    assert (found.num_inputs, found.singular_values.dtype) == (shape[0], torch.float64)
    assert spectrum(found) is found


@pytest.mark.parametrize("shape", [(8, 12), (12, 8)])
def test_ranks_of_known_singular_values(shape):
    # Sum 20, shares 0.5, 0.75, 0.9, 0.99, 1. Squares 100, 25, 9, 3.24, 0.04: sum 137.28.
    features = with_spectrum([10.0, 5.0, 3.0, 1.8, 0.2], *shape)
    assert srank(features, delta=0.01) == 4
    assert srank(features, delta=0.0) == 5
    assert srank(features, delta=0.3) == 2
    assert srank(features, delta=0.5) == 1
    # Cumulative squares: 0.728, 0.911, 0.976, 0.9997, 1.
    assert approximate_rank(features) == 4
    assert approximate_rank(features, share=0.95) == 3
    assert approximate_rank(features, share=1.0) == 5
    assert stable_rank(features) == pytest.approx(137.28 / 100)
    shares = np.array([10, 5, 3, 1.8, 0.2]) / 20
    assert effective_rank(features) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))


def test_feature_rank_divides_by_the_root_of_the_inputs_and_is_absolute():
    # sqrt(16) = 4: singular values become 1, 0.5, 0.02, 0.008.
    features = with_spectrum([4.0, 2.0, 0.08, 0.032], 16, 9)
    assert feature_rank(features) == 3
    assert feature_rank(features, epsilon=0.007) == 4
    assert feature_rank(features, epsilon=0.6) == 1
    assert feature_rank(features * 1e-3) == 0
    # Undivided, as plots of the paper are reported to be: 4, 2, 0.08 and 0.032 themselves.
    assert feature_rank(features, divide=False) == 4
    assert feature_rank(features, epsilon=0.05, divide=False) == 3
    assert srank(features * 1e-3) == srank(features)


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_the_identity_has_full_rank(size):
    features = torch.eye(size)
    assert [round(rank(features), 6) for rank in (feature_rank, effective_rank, stable_rank)] == [size] * 3
    # 99 % of equal shares: of 100 directions 99 suffice, of fewer all are needed.
    assert [srank(features), approximate_rank(features)] == [min(size, 99)] * 2


@pytest.mark.parametrize("rank", RANKS)
def test_rank_one_is_one(rank):
    features = torch.outer(torch.arange(1.0, 7.0), torch.tensor([1.0, -2.0, 0.5]))
    assert rank(features) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("rank", RANKS)
def test_one_input_or_one_unit_has_rank_one(rank):
    assert rank(torch.ones(1, 5)) == pytest.approx(1.0)
    assert rank(torch.ones(5, 1)) == pytest.approx(1.0)


@pytest.mark.parametrize("rank", RANKS)
def test_the_zero_matrix_has_rank_zero(rank):
    assert rank(torch.zeros(4, 3)) == 0.0


@pytest.mark.parametrize("rank", RANKS)
def test_convolutional_features_are_flattened_and_a_spectrum_gives_the_same(rank):
    features = torch.randn(6, 2, 3, 4, generator=torch.Generator().manual_seed(1)).relu()
    assert rank(features) == rank(features.flatten(1)) == rank(spectrum(features))


@pytest.mark.parametrize("rank", [srank, approximate_rank, effective_rank, stable_rank])
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_relative_ranks_do_not_depend_on_scale(rank, scale):
    features = with_spectrum([3.0, 1.0, 0.5, 0.01], 7, 9)
    assert rank(features * scale) == pytest.approx(rank(features))


def test_random_features_lie_between_one_and_their_number():
    features = torch.randn(20, 30, generator=torch.Generator().manual_seed(1))
    values = {rank.__name__: rank(features) for rank in RANKS}
    assert all(1 <= value <= 20 for value in values.values())
    assert values["stable_rank"] < values["effective_rank"]


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_not_finite_is_refused(rank, bad):
    features = torch.ones(3, 4)
    features[0, 1] = bad
    with pytest.raises(ValueError, match="the features hold NaN or infinity"):
        rank(features)


@pytest.mark.parametrize("shape", [(3,), (0, 4), (4, 0), ()])
def test_what_is_no_matrix_is_refused(shape):
    with pytest.raises(ValueError, match="features must be a matrix"):
        spectrum(torch.ones(shape))


def test_half_precision_and_gradients_are_accepted():
    features = torch.eye(4, dtype=torch.bfloat16, requires_grad=True)
    assert isinstance(spectrum(features), Spectrum)
    assert stable_rank(features) == pytest.approx(4.0)
