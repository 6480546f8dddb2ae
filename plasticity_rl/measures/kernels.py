"""Measures on gradients of single inputs: interference between them, and the kernel that they make."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from plasticity_rl.measures.checks import refuse_not_finite
from plasticity_rl.measures.spectra import Spectrum

_COLUMNS_AT_ONCE = 1 << 20


def gram_matrix(rows: Tensor) -> Tensor:
    """Inner products ``G_ij = <g_i, g_j>`` of the rows, computed in float64.

    Args:
        rows: ``(n, p)``, e.g. one gradient a row. Not empty, finite.

    Returns:
        float64 ``(n, n)`` on the CPU, symmetric and positive semi-definite.

    Raises:
        ValueError: When it is no matrix, or empty, or holds NaN or infinity.
    """
    if rows.ndim != 2 or not rows.numel():
        raise ValueError(f"rows must be a matrix (n, p) that is not empty, got {tuple(rows.shape)}")
    refuse_not_finite(rows, "gradients")
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    # By blocks of columns: a float64 copy of all gradients of a network would be as large as a replay.
    for block in rows.detach().split(_COLUMNS_AT_ONCE, dim=1):
        double = block.double() if block.device.type in ("cpu", "cuda") else block.cpu().double()
        gram += (double @ double.T).cpu()
    return gram


def cosine_similarities(gram: Tensor) -> Tensor:
    """Cosines ``G_ij / sqrt(G_ii G_jj)`` from a Gram matrix ``(n, n)``; those of a zero row are 0. In [-1, 1]."""
    norms = _kernel(gram).diagonal().clamp(min=0).sqrt()
    inverse = torch.where(norms > 0, 1 / norms, torch.zeros_like(norms))
    return (gram * inverse[:, None] * inverse[None, :]).clamp(-1.0, 1.0)


@dataclass(frozen=True)
class Interference:
    """How the gradients of different inputs relate; see :func:`interference`.

    Attributes:
        mean_cosine: Mean over all pairs, in [-1, 1].
        negative_fraction: Share of the pairs with a cosine below 0, in [0, 1].
        mean_negative: Mean of the cosines below 0, in [-1, 0]; 0 where there is none.
    """

    mean_cosine: float
    negative_fraction: float
    mean_negative: float


def interference(gram: Tensor) -> Interference:
    """Summarise the cosines of all pairs of different rows.

    Args:
        gram: ``(n, n)`` Gram matrix of the gradients of n inputs, n >= 2.

    Raises:
        ValueError: When there are fewer than two rows, or NaN or infinity.

    Source:
        Lyle et al. 2023 (arXiv 2303.01486), gradient covariance ``C_ij = <g_i, g_j> / (|g_i| |g_j|)``.
    """
    if len(gram) < 2:
        raise ValueError(f"gradients of at least two inputs make a pair, got {len(gram)}")
    upper = torch.ones_like(gram, dtype=torch.bool).triu(diagonal=1)
    cosines = cosine_similarities(gram)[upper]
    negative = cosines[cosines < 0]
    return Interference(
        float(cosines.mean()),
        len(negative) / len(cosines),
        float(negative.mean()) if len(negative) else 0.0,
    )


def covariance_spectrum(gram: Tensor) -> Spectrum:
    """Return the eigenvalues of the covariance ``1/n sum_i (g_i - g)(g_i - g)^T`` of n vectors with mean g.

    Those of the ``(p, p)`` matrix that are not zero, and n - 1 at most; the sum is the mean squared distance from g.

    Args:
        gram: ``(n, n)`` Gram matrix ``<g_i, g_j>`` of the vectors.

    Returns:
        Eigenvalues, descending, >= 0, as a ``Spectrum`` of which the ranks can be taken.

    Raises:
        ValueError: When the matrix is not square or holds NaN or infinity.
    """
    n = len(_kernel(gram))
    centre = torch.eye(n, dtype=torch.float64) - 1.0 / n
    values = torch.linalg.eigvalsh(centre @ gram.cpu().double() @ centre / n).flip(0)
    rounding = n * torch.finfo(torch.float64).eps * float(gram.abs().max())
    return Spectrum(torch.where(values > rounding, values, torch.zeros_like(values)), n)


def condition_number(kernel: Tensor) -> float:
    """Ratio of the largest to the smallest eigenvalue, >= 1; infinite for a singular kernel, the zero one included.

    Args:
        kernel: ``(n, n)``, symmetric and positive semi-definite, finite.
    """
    eigenvalues = torch.linalg.eigvalsh(_kernel(kernel).cpu().double())
    smallest, largest = float(eigenvalues[0]), float(eigenvalues[-1])
    rounding = len(eigenvalues) * torch.finfo(torch.float64).eps * max(largest, 0.0)
    return largest / smallest if smallest > rounding else math.inf


def _kernel(matrix: Tensor) -> Tensor:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.numel():
        raise ValueError(f"the kernel must be a square matrix that is not empty, got {tuple(matrix.shape)}")
    refuse_not_finite(matrix, "inner products")
    return matrix
