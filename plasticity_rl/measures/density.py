"""The spectrum of a large symmetric matrix of which only products with vectors are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from plasticity_rl.measures.checks import refuse_not_finite

_ROUNDING = 1e-6
"""A count of eigenvalues above a whole number by no more than this share of itself is that number."""


@dataclass(frozen=True)
class SpectralDensity:
    """Eigenvalues of a symmetric ``(p, p)`` matrix as point masses: ``sum_k weights_k delta(x - nodes_k)``.

    Attributes:
        nodes: float64 on the CPU, ascending.
        weights: Share of all eigenvalues at each node, >= 0, summing to 1.
        dimension: p, the number of eigenvalues.
    """

    nodes: Tensor
    weights: Tensor
    dimension: int

    @property
    def trace(self) -> float:
        """Sum of all eigenvalues."""
        return self.dimension * float(self.weights @ self.nodes)

    @property
    def negative_mass(self) -> float:
        """Share of the sum of magnitudes that the eigenvalues below zero make up, in [0, 1]; 0 for the zero matrix.

        Their share by number would be the sign of the one node near zero that stands for most eigenvalues; here what
        lies near zero counts next to nothing, whichever side its node came out on.
        """
        mass = self.weights * self.nodes.abs()
        total = float(mass.sum())
        return float(mass[self.nodes < 0].sum()) / total if total else 0.0

    @property
    def effective_rank(self) -> float:
        """``exp(-sum_i q_i log q_i)`` with ``q_i = |lambda_i| / sum_j |lambda_j|``, in [1, p]; 0 for the zero matrix.

        Source:
            Roy & Vetterli 2007, "The effective rank", EUSIPCO: the singular values are the magnitudes.
        """
        sizes = self.nodes.abs()
        total = self.dimension * float(self.weights @ sizes)
        if not total:
            return 0.0
        rank = math.exp(self.dimension * float(self.weights @ torch.special.entr(sizes / total)))
        return min(max(rank, 1.0), float(self.dimension))  # a start may see less than one eigenvalue's share of it

    def srank(self, delta: float = 0.01) -> float:
        """Smallest number of eigenvalues, largest magnitudes first, that make up ``1 - delta`` of all magnitudes.

        A whole number in [1, p], 0 for the zero matrix. The eigenvalues of one node count as equal, so that it comes
        out too large where few nodes stand for many eigenvalues.

        Source:
            Kumar et al. 2021 (arXiv 2010.14498), section 3, here of a Hessian as in Lewandowski et al. 2023 (arXiv
            2312.00246).
        """
        order = self.nodes.abs().argsort(descending=True)
        sizes, weights = self.nodes.abs()[order], self.weights[order]
        sizes, weights = sizes[sizes > 0], weights[sizes > 0]
        mass = weights * sizes
        missing = (1.0 - delta) * mass.sum() - (mass.cumsum(0) - mass)  # before each node
        count = self.dimension * float(torch.minimum(weights, missing.clamp(min=0.0) / sizes).sum())
        if not len(sizes):
            return 0.0
        return float(min(max(math.ceil(count * (1.0 - _ROUNDING)), 1), self.dimension))


def spectral_density(matvec: Callable[[Tensor], Tensor], starts: Iterable[Tensor], num_steps: int) -> SpectralDensity:
    """Estimate the spectrum of a symmetric matrix by stochastic Lanczos quadrature.

    Every start gives a tridiagonal matrix ``num_steps`` wide, whose eigenvalues are nodes and whose eigenvectors' first
    entries, squared, are weights: a Gauss quadrature of the spectrum as the start sees it. Random starts see all of it
    on average; the ends of the spectrum come out first. Vectors are orthogonalised twice against all before, so that
    no eigenvalue appears again from rounding.

    Args:
        matvec: Maps v ``(p,)`` to ``H v``.
        starts: Vectors ``(p,)`` other than zero, e.g. standard normal ones; one at least.
        num_steps: Products with H for each start, >= 1; after p of them there is nothing left.

    Raises:
        ValueError: When there is no start, one is zero, or a product holds NaN or infinity.

    Source:
        Ghorbani et al. 2019 (arXiv 1901.10159), section 2 and Algorithm 1.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps} must be >= 1")
    nodes, weights, dimension = [], [], 0
    for start in starts:
        if not bool(start.any()):
            raise ValueError("a start of Lanczos' method must not be zero")
        dimension = start.numel()
        values, vectors = torch.linalg.eigh(_tridiagonal(matvec, start, min(num_steps, dimension)))
        nodes.append(values)
        weights.append(vectors[0].square())
    if not nodes:
        raise ValueError("there is no start")
    found = torch.cat(nodes)
    order = found.argsort()
    return SpectralDensity(found[order], torch.cat(weights)[order] / len(nodes), dimension)


def _tridiagonal(matvec: Callable[[Tensor], Tensor], start: Tensor, num_steps: int) -> Tensor:
    """Return Lanczos' tridiagonal matrix, float64 on the CPU, smaller where the space of the start is exhausted."""
    basis = start.new_empty(num_steps, start.numel())
    basis[0] = start / start.norm()
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    for step in range(num_steps):
        image = matvec(basis[step])
        diagonal.append(basis[step] @ image)
        if step + 1 == num_steps:
            break
        known = basis[: step + 1]
        for _ in range(2):
            image = image - known.T @ (known @ image)
        norm = image.norm()
        beside.append(norm)
        size = torch.stack([*diagonal, *beside]).abs().max()
        refuse_not_finite(size, "products with the matrix")
        if float(norm) <= 10 * torch.finfo(image.dtype).eps * float(size) * image.numel() ** 0.5:
            beside.pop()
            break
        basis[step + 1] = image / norm
    entries = torch.stack(diagonal).double().cpu()
    refuse_not_finite(entries, "products with the matrix")
    if not beside:
        return torch.diag(entries)
    off = torch.stack(beside).double().cpu()
    return torch.diag(entries) + torch.diag(off, 1) + torch.diag(off, -1)
