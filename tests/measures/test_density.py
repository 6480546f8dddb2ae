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
    assert found.negative_mass == pytest.approx(1 / 8)
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
    assert (found.trace, found.negative_mass, found.effective_rank, found.srank()) == (0, 0, 0, 0)


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
    assert found.negative_mass == pytest.approx(sizes[values < 0].sum() / sizes.sum())
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
    assert found.negative_mass == pytest.approx(13 / 28, abs=0.05)  # 10 and 3 of 20 and 8


@pytest.mark.parametrize(("values", "seed"), [(values, seed) for values in ([1.0], [5.0, 3.0, 2.0]) for seed in (0, 1)])
def test_ranks_of_a_few_eigenvalues_among_millions_stay_in_range(values, seed):
    """One start sees more or less than one eigenvalue's share of each: ranks were negative, or below 1."""
    size, generator = 2_000_000, torch.Generator().manual_seed(seed)
    large = torch.tensor(values)

    def product(vector):
        image = torch.zeros_like(vector)
        image[: len(large)] = large * vector[: len(large)]
        return image

    found = spectral_density(product, [torch.randn(size, generator=generator)], 4)
    assert 1 <= found.srank() <= 15
    assert 1 <= found.effective_rank <= 15


def test_a_count_of_eigenvalues_among_millions_is_exact():
    p = 4_200_000
    assert density([0.0, 1.0, 2.0], [(p - 3) / p, 2 / p, 1 / p], p).srank() == 3
    assert density([0.0, 1.0], [(p - 1) / p, 1 / p], p).srank(delta=0.0) == 1
    assert density([0.0, 1.0], [1 - 0.2 / p, 0.2 / p], p).effective_rank == 1


def test_the_negative_mass_does_not_turn_with_the_sign_of_the_bulk():
    below, above = (density([-1.0, bulk, 4.0], [0.1, 0.8, 0.1], 10) for bulk in (-1e-5, 1e-5))
    assert below.negative_mass == pytest.approx(0.2, abs=1e-4)
    assert above.negative_mass == pytest.approx(0.2, abs=1e-4)


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
