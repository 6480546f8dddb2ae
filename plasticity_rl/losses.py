"""DrQ-v2's losses as pure functions (Yarats et al. 2021, arXiv 2107.09645, section 3.1)."""

from __future__ import annotations

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


def squared_distance(parameters: Iterable[Tensor], origins: Iterable[Tensor]) -> Tensor:
    """Sum of squared differences ``sum_i ||theta_i - origin_i||^2`` over pairs of equal shape; a scalar."""
    return torch.stack([(p - origin).square().sum() for p, origin in zip(parameters, origins, strict=True)]).sum()
