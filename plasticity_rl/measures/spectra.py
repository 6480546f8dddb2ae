"""Ranks of a feature matrix. The literature has five under similar names; each is named exactly here.

All are functions of the singular values of ``features``, computed in float64. With fewer inputs than features they are
bounded by the number of inputs. The zero matrix has rank 0 in each of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from plasticity_rl.measures.checks import refuse_not_finite

_ROUNDING = 1e-9
"""Shares of the spectrum closer than this to a threshold count as having reached it."""


@dataclass(frozen=True)
class Spectrum:
    """Singular values of a feature matrix, to compute several ranks from one decomposition.

    Attributes:
        singular_values: float64, descending, on the CPU, ``[min(n, d)]``.
        num_inputs: Rows n of the matrix.
    """

    singular_values: Tensor
    num_inputs: int


def spectrum(features: Tensor | Spectrum) -> Spectrum:
    """Return the singular values of ``features``.

    Args:
        features: ``(n, ...)``, one row an input; what follows the first dimension is flattened. Not empty, finite. A
            ``Spectrum`` is returned as it is.

    Raises:
        ValueError: When the matrix is empty, has fewer than two dimensions, or holds NaN or infinity.
    """
    if isinstance(features, Spectrum):
        return features
    if features.ndim < 2 or not features.numel():
        raise ValueError(f"features must be a matrix (inputs, features) that is not empty, got {tuple(features.shape)}")
    refuse_not_finite(features, "features")
    matrix = features.detach().flatten(1)
    matrix = matrix.double() if matrix.device.type in ("cpu", "cuda") else matrix.cpu().double()
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    # The triangular factor has the same singular values and is small: the SVD, which may fail to converge on a GPU, is
    # then done on the CPU at little cost.
    triangular = torch.linalg.qr(tall, mode="r").R
    return Spectrum(torch.linalg.svdvals(triangular.cpu()), matrix.shape[0])


def srank(features: Tensor | Spectrum, delta: float = 0.01) -> float:
    """Smallest k with ``sum_{i<=k} sigma_i / sum_i sigma_i >= 1 - delta``; 0 for the zero matrix.

    Args:
        features: ``(n, d)`` features of n inputs.
        delta: Share of the sum of singular values that may be missing, in [0, 1).

    Source:
        Kumar et al. 2021 (arXiv 2010.14498), section 3, effective rank ``srank_delta``.
    """
    return _smallest_prefix(spectrum(features).singular_values, 1.0 - delta)


def approximate_rank(features: Tensor | Spectrum, share: float = 0.99) -> float:
    """Smallest k with ``sum_{i<=k} sigma_i^2 / sum_i sigma_i^2 >= share``; 0 for the zero matrix.

    Args:
        features: ``(n, d)`` features of n inputs.
        share: Share of the sum of squares (the variance, were the features centred) to reach, in (0, 1].

    Source:
        Yang et al. 2019 (arXiv 1909.12255), approximate rank; with 99 % in the released code of Dohare et al. 2024
        (arXiv 2306.13812).
    """
    return _smallest_prefix(spectrum(features).singular_values.square(), share)


def feature_rank(features: Tensor | Spectrum, epsilon: float = 0.01, *, divide: bool = True) -> float:
    """Number of singular values of ``features / sqrt(n)``, or of ``features``, above ``epsilon``.

    Not relative to the largest one on purpose, so that features which shrink to zero lose rank.

    Args:
        features: ``(n, d)`` features of n inputs.
        epsilon: Threshold, >= 0.
        divide: Whether to divide by ``sqrt(n)``, as defined; without it more inputs give more rank.

    Source:
        Lyle et al. 2022 (arXiv 2204.09560), section 3, feature rank.
    """
    found = spectrum(features)
    divisor = math.sqrt(found.num_inputs) if divide else 1.0
    return float(torch.count_nonzero(found.singular_values / divisor > epsilon))


def effective_rank(features: Tensor | Spectrum) -> float:
    """``exp(-sum_i p_i log p_i)`` with ``p_i = sigma_i / sum_j sigma_j``, in [1, min(n, d)]; 0 for the zero matrix.

    Args:
        features: ``(n, d)`` features of n inputs.

    Source:
        Roy & Vetterli 2007, "The effective rank", EUSIPCO, Definition 1.
    """
    sigma = spectrum(features).singular_values
    if not float(sigma.sum()):
        return 0.0
    return float(torch.special.entr(sigma / sigma.sum()).sum().exp())


def stable_rank(features: Tensor | Spectrum) -> float:
    """``||A||_F^2 / ||A||_2^2``, in [1, min(n, d)]; 0 for the zero matrix.

    Args:
        features: ``(n, d)`` features of n inputs, the matrix A.

    Source:
        Rudelson & Vershynin 2007 (arXiv math/0503442), "numerical rank". Some code calls srank by this name.
    """
    sigma = spectrum(features).singular_values
    largest = float(sigma.max())
    return float((sigma / largest).square().sum()) if largest else 0.0


def _smallest_prefix(values: Tensor, share: float) -> float:
    total = values.sum()
    if not float(total):
        return 0.0
    reached = values.cumsum(0) / total >= share - _ROUNDING
    return 1.0 + float(torch.count_nonzero(~reached))
