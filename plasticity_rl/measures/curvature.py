"""Curvature of a loss from Hessian-vector products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from plasticity_rl.measures.checks import refuse_not_finite


@dataclass(frozen=True)
class Eigenvalue:
    """An eigenvalue of a symmetric matrix found by iteration.

    Attributes:
        value: Rayleigh quotient ``v^T H v`` of the last unit vector v.
        residual: ``||H v - value v||``. There is an eigenvalue within this distance of ``value``.
    """

    value: float
    residual: float


def top_eigenvalue(matvec: Callable[[Tensor], Tensor], start: Tensor, num_iterations: int) -> Eigenvalue:
    """Find the eigenvalue of largest magnitude of a symmetric matrix H by power iteration, with its sign.

    Waits for a GPU only at the end.

    Args:
        matvec: Maps v ``(p,)`` to ``H v``.
        start: First vector ``(p,)``, not zero; a random one is almost surely not orthogonal to the eigenvector.
        num_iterations: Products with H, at least 1. The error falls by ``|lambda_2 / lambda_1|`` in each.

    Raises:
        ValueError: When the start is zero, there is no iteration, or a product holds NaN or infinity.
    """
    if num_iterations < 1 or not bool(start.any()):
        raise ValueError(f"power iteration needs a start other than zero and iterations >= 1, got {num_iterations}")
    vector = start / start.norm()
    for _ in range(num_iterations):
        image = matvec(vector)
        value = vector @ image
        residual = (image - value * vector).norm()
        norm = image.norm()
        # The image of a zero matrix is zero: the vector then stays, and both results are 0.
        vector = torch.where(norm > 0, image / norm.clamp_min(torch.finfo(norm.dtype).tiny), vector)
    result = torch.stack([value, residual])
    refuse_not_finite(result, "products with the matrix")
    return Eigenvalue(*result.tolist())
