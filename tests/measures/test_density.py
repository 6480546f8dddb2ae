"""Lanczos quadrature against matrices whose eigenvalues are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from plasticity_rl.measures import NotFiniteError, SpectralDensity, spectral_density


def density(nodes: list[float], weights: list[float], dimension: int) -> SpectralDensity:
    return SpectralDensity(*(torch.tensor(values, dtype=torch.float64) for values in (nodes, weights)), dimension)


def test_summaries_by_hand():
    """Eigenvalues -1, 1, 2, 4 and four zeros: magnitudes sum to 8."""
    found = density([-1.0, 0.0, 1.0, 2.0, 4.0], [1 / 8, 4 / 8, 1 / 8, 1 / 8, 1 / 8], 8)
    assert found.trace == pytest.approx(6)
    assert found.negative_share == pytest.approx(1 / 8)
    # q = 1/8, 1/8, 1/4, 1/2: entropy 2 * log(8) / 8 + log(4) / 4 + log(2) / 2 = (3/4 + 1/2 + 1/2) log 2
    assert found.effective_rank == pytest.approx(2**1.75)
    assert found.srank() == 4  # 4, 4 + 2, 4 + 2 + 1 are 0.5, 0.75, 0.875 of the sum
    assert found.srank(delta=0.2) == 3
    assert found.srank(delta=0.5) == 1


def test_one_node_may_stand_for_many_eigenvalues():
    found = density([0.0, 3.0], [0.9, 0.1], 100)
    assert (found.effective_rank, found.srank(), found.trace) == pytest.approx((10, 10, 30))


def test_the_zero_matrix_has_rank_zero():
    found = spectral_density(torch.zeros_like, [torch.ones(5)], 3)
    assert found.nodes.tolist() == [0.0]
    assert (found.trace, found.negative_share, found.effective_rank, found.srank()) == (0, 0, 0, 0)


def some_matrix(size: int = 12) -> torch.Tensor:
    rows = np.random.default_rng(0).normal(size=(size, 5))
    values = np.array([4.0, 1.5, -2.0, 0.3, 0.1])
    return torch.from_numpy(rows @ np.diag(values) @ rows.T)


def test_all_unit_vectors_as_starts_give_the_whole_spectrum():
    """Then the quadrature is exact: the slow version decomposes the matrix."""
    matrix = some_matrix()
    found = spectral_density(lambda v: matrix @ v, torch.eye(12, dtype=torch.float64), 12)
    values = np.linalg.eigvalsh(matrix.numpy())
    sizes = np.abs(values)
    q = sizes[sizes > 1e-9] / sizes.sum()
    assert float(found.nodes[0]) == pytest.approx(values[0])
    assert float(found.nodes[-1]) == pytest.approx(values[-1])
    assert found.trace == pytest.approx(values.sum())
    assert found.negative_share == pytest.approx((values < -1e-6).mean(), abs=1e-6)
    assert found.effective_rank == pytest.approx(math.exp(-(q * np.log(q)).sum()))
    assert found.srank() == 1 + int((np.cumsum(np.sort(sizes)[::-1]) / sizes.sum() < 0.99).sum())
    assert float(found.weights.sum()) == pytest.approx(1)


def test_random_starts_come_near_and_a_few_steps_find_the_ends():
    """A diagonal of 400 small values and two large ones, in 12 steps."""
    diagonal = torch.cat([torch.linspace(-0.1, 0.1, 400), torch.tensor([5.0, -3.0])]).double()
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(402, generator=generator, dtype=torch.float64) for _ in range(20)]
    found = spectral_density(lambda v: diagonal * v, starts, 12)
    assert float(found.nodes[-1]) == pytest.approx(5, abs=1e-3)
    assert float(found.nodes[0]) == pytest.approx(-3, abs=1e-3)
    assert found.trace == pytest.approx(float(diagonal.sum()), abs=2.5)
    assert found.negative_share == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("starts", "steps", "message"), [([], 3, "no start"), ([torch.zeros(3)], 3, "zero"), ([torch.ones(3)], 0, ">= 1")]
)
def test_bad_arguments_are_refused(starts, steps, message):
    with pytest.raises(ValueError, match=message):
        spectral_density(lambda v: v, starts, steps)


@pytest.mark.parametrize("steps", [1, 3])
def test_what_is_not_finite_is_refused(steps):
    with pytest.raises(NotFiniteError):
        spectral_density(lambda v: v * float("nan"), [torch.ones(3)], steps)
