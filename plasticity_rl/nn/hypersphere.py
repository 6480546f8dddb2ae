"""Layers of networks that live on the unit hypersphere: features and rows of weights have Euclidean norm 1."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from plasticity_rl.nn.residual import Residual

SMALLEST_NORM = 1e-8
"""A vector shorter than this is divided by it instead: zero stays zero."""


def unit_vectors(vectors: Tensor) -> Tensor:
    """Return ``(..., n)`` divided by the Euclidean norms of their last dimension."""
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp_min(SMALLEST_NORM)


class OnSphere(nn.Module):
    """Divides every vector by its norm."""

    def forward(self, vectors: Tensor) -> Tensor:
        """Map ``(..., n)`` to the same shape."""
        return unit_vectors(vectors)


class Shift(nn.Module):
    """Puts a constant behind every vector and divides by the norm of all: so the length of the vector is not lost.

    Args:
        constant: Put behind.
    """

    def __init__(self, constant: float) -> None:
        super().__init__()
        self.constant = constant

    def forward(self, vectors: Tensor) -> Tensor:
        """Map ``(..., n)`` to ``(..., n + 1)``."""
        constant = vectors.new_full((*vectors.shape[:-1], 1), self.constant)
        return unit_vectors(torch.cat([vectors, constant], dim=-1))

    def extra_repr(self) -> str:
        """Return what ``repr`` says of it."""
        return f"{self.constant}"


class Scale(nn.Module):
    """Multiplies every number of a vector by a learned one, ``weight * factor``.

    The constant factor sets how far a step of the optimizer turns it: the larger the weight starts, the less.

    Args:
        size: Numbers of a vector.
        first: What it multiplies by at first.
        start: First value of the weights; the factor is ``first / start``.

    Attributes:
        weight: ``(size,)``.
    """

    def __init__(self, size: int, first: float, start: float) -> None:
        super().__init__()
        self.first, self.start = first, start
        self.weight = nn.Parameter(torch.full((size,), start))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the weights to their first value."""
        self.weight.fill_(self.start)

    def forward(self, vectors: Tensor) -> Tensor:
        """Map ``(..., size)`` to the same shape."""
        return vectors * (self.weight * (self.first / self.start))

    def extra_repr(self) -> str:
        """Return what ``repr`` says of it."""
        return f"{len(self.weight)}, first={self.first:g}, start={self.start:g}"


class Nudge(nn.Module):
    """Adds 1e-8, so that units that are all silent are no zero vector."""

    def forward(self, units: Tensor) -> Tensor:
        """Map ``(..., n)`` to the same shape."""
        return units + SMALLEST_NORM


class SphericalResidual(Residual):
    """Goes from ``x`` a learned part of the way to ``f(x)`` and back to the sphere: ``x + a * (f(x) - x)``, normalised.

    Args:
        *layers: Compute ``f``, from first to last.
        step: Multiplies by ``a``, one number for every dimension.
    """

    step: Scale

    def __init__(self, *layers: nn.Module, step: Scale) -> None:
        super().__init__(*layers)
        self.step = step

    def forward(self, input: Tensor) -> Tensor:
        """Map unit vectors ``(batch, n)`` to unit vectors."""
        output = input
        for name, layer in self.named_children():
            if name != "step":
                output = layer(output)
        return unit_vectors(input + self.step(output - input))


@torch.no_grad()
def project(weight: Tensor) -> Tensor:
    """Divide the rows of a weight ``(out, in)`` by their norms, in place; a row of zeros stays.

    Returns:
        Factors ``(out, 1)`` that it was multiplied by.
    """
    factor = weight.norm(dim=1, keepdim=True).clamp_min(SMALLEST_NORM).reciprocal()
    weight.mul_(factor)
    return factor
