"""How far weights are shrunk that point away from where the gradient would take them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.no_grad()
def direction_factors(parameter: Tensor, direction: Tensor, least: float) -> Tensor:
    """Return the factors ``clamp(cos(theta, d), least, 1)`` of the vectors theta that a parameter is made of.

    A vector is a row of a linear layer (what one unit reads), a kernel ``(height, width)`` of a convolution, or a whole
    bias. Of a vector of zeros, or a direction of zeros, the cosine is 0; where it is not finite the factor is 1.

    Args:
        parameter: Weight or bias, ``(out, in)``, ``(out, in, ...)`` or ``(n,)``.
        direction: Of its shape: the negative gradient.
        least: Smallest factor, in [0, 1].

    Returns:
        Tensor that broadcasts with ``parameter``: ``(out, 1)``, ``(out, in, 1, ...)`` or ``(1,)``.

    Source:
        Shin et al. 2024 (arXiv 2410.23495), Algorithm 1; which vectors is of the authors' code.
    """
    vectors = 2 if parameter.dim() > 2 else parameter.dim() - 1
    cosine = F.cosine_similarity(parameter.flatten(vectors), direction.flatten(vectors), dim=-1)
    factors = torch.where(cosine.isfinite(), cosine.clamp(least, 1.0), 1.0)
    return factors.view(*parameter.shape[:vectors], *[1] * (parameter.dim() - vectors))
