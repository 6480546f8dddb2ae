"""DrQ-v2's losses as pure functions (Yarats et al. 2021, arXiv 2107.09645, section 3.1)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F


def td_target(reward: Tensor, discount: Tensor, next_q1: Tensor, next_q2: Tensor) -> Tensor:
    """n-step clipped double-Q target, Eq. 3: ``y = sum_i gamma^i r_(t+i) + gamma^n min_k Q_k(s_(t+n), a_(t+n))``.

    Args:
        reward: ``(batch, 1)`` n-step discounted reward.
        discount: ``(batch, 1)`` product of gamma and the environment's discounts over the n steps.
        next_q1: ``(batch, 1)`` first target value at the bootstrap observation.
        next_q2: ``(batch, 1)`` second target value there.
    """
    return reward + discount * torch.min(next_q1, next_q2)


def critic_loss(q1: Tensor, q2: Tensor, target: Tensor) -> Tensor:
    """Sum of both critics' mean squared TD errors, Eq. 2. All arguments ``(batch, 1)``; returns a scalar."""
    return F.mse_loss(q1, target) + F.mse_loss(q2, target)


def actor_loss(q1: Tensor, q2: Tensor) -> Tensor:
    """Deterministic policy gradient through the smaller critic, Eq. 4: ``-mean(min(q1, q2))``; a scalar."""
    return -torch.min(q1, q2).mean()


def hl_gauss(target: Tensor, edges: Tensor, sigma: float) -> Tensor:
    r"""Histogram of a Gaussian around a value, HL-Gauss (Farebrother et al. 2024, arXiv 2403.03950, Appendix A).

    With :math:`F(x) = \mathrm{erf}((x - y) / (\sqrt 2 \sigma))` the bin from l to r receives
    :math:`(F(r) - F(l)) / (F(v_{max}) - F(v_{min}))`; y is clipped to the range first.

    Args:
        target: ``(batch, 1)``, y.
        edges: ``(bins + 1,)``, ascending.
        sigma: Standard deviation of the Gaussian, > 0.

    Returns:
        ``(batch, bins)``, sums of 1.
    """
    y = target.clamp(edges[0], edges[-1])
    below = torch.erf((edges - y) / (math.sqrt(2.0) * sigma))
    return below.diff(dim=-1) / (below[:, -1:] - below[:, :1])


def expectation(logits: Tensor, support: Tensor) -> Tensor:
    """Return the mean of every distribution: logits ``(..., atoms)`` to ``(...)``."""
    return (logits.softmax(-1) * support).sum(-1)


def squared_distance(parameters: Iterable[Tensor], origins: Iterable[Tensor]) -> Tensor:
    """Sum of squared differences ``sum_i ||theta_i - origin_i||^2`` over pairs of equal shape; a scalar."""
    return torch.stack([(p - origin).square().sum() for p, origin in zip(parameters, origins, strict=True)]).sum()


def squared_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Sum of squares ``sum_i ||theta_i||^2``; a scalar, whose gradient is ``2 theta``."""
    return torch.stack([p.square().sum() for p in parameters]).sum()


def feature_regression(outputs: Tensor, targets: Tensor) -> Tensor:
    """InFeR's ``E_x sum_i (g_i(x) - target_i(x))^2`` (Lyle et al. 2022, arXiv 2204.09560, Eq. 5); a scalar.

    Args:
        outputs: ``(batch, heads)``: the sum is over heads, the mean over the batch.
        targets: ``(batch, heads)``.
    """
    return (outputs - targets).square().sum(1).mean()


def largest_singular_value(weight: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
    """Estimate the largest singular value of a matrix by one power iteration; with a warm start it tracks training.

    Args:
        weight: ``(out, in)``.
        left: ``(out,)`` unit vector from the iteration before, or any that is not orthogonal to the left singular
            vector.

    Returns:
        ``u^T W v``, a scalar with the gradient ``u v^T``, at most the true value; and the next ``left``, without
        gradient (the one given where the matrix is zero).
    """
    with torch.no_grad():
        right = F.normalize(weight.T @ left, dim=0)
        image = weight @ right
        norm = image.norm()
        following = torch.where(norm > 0, image / norm.clamp_min(torch.finfo(norm.dtype).tiny), left)
    return following @ weight @ right, following


def spectral_penalty(singular_values: Iterable[Tensor], exponent: float = 2.0) -> Tensor:
    """Sum over matrices of ``(sigma_max^k - 1)^2`` (Lewandowski et al. 2024, arXiv 2406.06811); a scalar.

    Args:
        singular_values: Largest singular value of each matrix, scalars.
        exponent: k.
    """
    return torch.stack([(sigma**exponent - 1.0).square() for sigma in singular_values]).sum()


def parseval_penalty(weights: Iterable[Tensor], scale: float = 1.0) -> Tensor:
    """Sum over matrices of ``||W W^T - s I||_F^2`` (Chung et al. 2024, arXiv 2412.07224); a scalar.

    Args:
        weights: Matrices ``(out, in)``. With ``out > in`` rows cannot be orthogonal, and ``s^2 (out - in)`` remains.
        scale: s.
    """
    return torch.stack([_distance_from_parseval(weight, scale) for weight in weights]).sum()


def _distance_from_parseval(weight: Tensor, scale: float) -> Tensor:
    # ||W W^T - s I||^2 = ||W^T W - s I||^2 + s^2 (out - in): the smaller of the two products is the cheaper one.
    out_dim, in_dim = weight.shape
    wide = weight if out_dim <= in_dim else weight.T
    gram = wide @ wide.T
    eye = torch.eye(len(gram), dtype=weight.dtype, device=weight.device)
    return (gram - scale * eye).square().sum() + scale**2 * max(out_dim - in_dim, 0)
