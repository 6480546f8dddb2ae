"""Power iteration on matrices with known eigenvalues, and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

from plasticity_rl.measures import top_eigenvalue


def symmetric(size: int, seed: int) -> torch.Tensor:
    matrix = torch.from_numpy(np.random.default_rng(seed).normal(size=(size, size)))
    return matrix + matrix.T


def start(size: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=size))


def test_first_steps_by_hand():
    # H = diag(2, 1) from (1, 1) / sqrt 2: H v = (2, 1) / sqrt 2, the quotient is 3/2, the rest (1/2, -1/2) / sqrt 2.
    matrix = torch.diag(torch.tensor([2.0, 1.0]))
    once = top_eigenvalue(lambda v: matrix @ v, torch.ones(2), 1)
    assert once.value == pytest.approx(1.5)
    assert once.residual == pytest.approx(0.5)
    # Then v = (2, 1) / sqrt 5: the quotient is (8 + 1) / 5.
    assert top_eigenvalue(lambda v: matrix @ v, torch.ones(2), 2).value == pytest.approx(9 / 5)


@pytest.mark.parametrize(("values", "expected"), [([3.0, 1.0, -2.0], 3.0), ([-5.0, 4.0, 1.0], -5.0), ([7.0], 7.0)])
def test_the_largest_magnitude_with_its_sign(values, expected):
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(len(values), len(values))))
    matrix = torch.from_numpy(rotation @ np.diag(values) @ rotation.T)
    found = top_eigenvalue(lambda v: matrix @ v, start(len(values)), 200)
    assert found.value == pytest.approx(expected)
    assert found.residual == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_scipy(seed):
    matrix = symmetric(12, seed)
    expected = scipy.sparse.linalg.eigsh(matrix.numpy(), k=1, which="LM", return_eigenvectors=False)[0]
    found = top_eigenvalue(lambda v: matrix @ v, start(12, seed), 3000)
    assert found.value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_an_eigenvalue_lies_within_the_residual(iterations):
    matrix = symmetric(8, 5)
    found = top_eigenvalue(lambda v: matrix @ v, start(8), iterations)
    distances = np.abs(np.linalg.eigvalsh(matrix.numpy()) - found.value)
    assert distances.min() <= found.residual * (1 + 1e-9)


def test_zero_and_rank_one():
    found = top_eigenvalue(torch.zeros_like, start(4), 5)
    assert (found.value, found.residual) == (0.0, 0.0)
    direction = start(6, 3)
    found = top_eigenvalue(lambda v: direction * (direction @ v), start(6), 2)
    assert found.value == pytest.approx(float(direction @ direction))


def test_hessian_of_a_quadratic_loss():
    """The products come from autograd, as in the probe: L = x^T A x / 2 + b^T x has the Hessian A."""
    matrix, x = symmetric(5, 7), start(5, 2).requires_grad_()
    (gradient,) = torch.autograd.grad(x @ matrix @ x / 2 + x.sum(), x, create_graph=True)
    found = top_eigenvalue(lambda v: torch.autograd.grad(gradient, x, v, retain_graph=True)[0], start(5, 9), 2000)
    values = np.linalg.eigvalsh(matrix.numpy())
    assert found.value == pytest.approx(values[np.abs(values).argmax()], rel=1e-6)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="products with the matrix hold NaN or infinity"):
        top_eigenvalue(lambda v: v * float("nan"), start(3), 2)
    with pytest.raises(ValueError, match="a start other than zero"):
        top_eigenvalue(lambda v: v, torch.zeros(3), 2)
    with pytest.raises(ValueError, match="iterations >= 1, got 0"):
        top_eigenvalue(lambda v: v, torch.ones(3), 0)
