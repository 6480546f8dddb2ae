"""Fold the steps of a window into one transition."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torchrl.envs.transforms import Transform


class FoldNStep(Transform):
    r"""Folds the n rewards and discounts of each window into one.

    With rewards :math:`r_k` and environment discounts :math:`d_k` (0 after a true termination, else 1),

    .. math:: R = \sum_{k<n} r_k \prod_{j<k} \gamma d_j, \qquad D = \prod_{k<n} \gamma d_k,

    so that the target is :math:`R + D\,Q(s_{t+n}, \cdot)`. The order of the float32 operations is DrQ-v2's.

    Args:
        discount: :math:`\gamma`, in [0, 1].
        reward_clip: Each :math:`r_k` is clipped to :math:`\pm` this; None: not clipped. The replay keeps the reward as
            it was, so that returns of episodes are what the environment gave.
    """

    def __init__(self, discount: float, reward_clip: float | None = None) -> None:
        super().__init__(in_keys=[], out_keys=[])
        self.discount, self.reward_clip = discount, reward_clip

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Replace ``reward`` and ``discount`` [B, n] by their folded values [B, 1]."""
        if tensordict.get("next", None) is None:
            return tensordict  # raw records, read as replay[index]
        rewards, discounts = tensordict.get("reward"), tensordict.get("discount")
        if self.reward_clip is not None:
            rewards = rewards.clamp(-self.reward_clip, self.reward_clip)
        reward, discount = torch.zeros_like(rewards[:, :1]), torch.ones_like(rewards[:, :1])
        for k in range(rewards.shape[1]):
            reward += discount * rewards[:, k : k + 1]
            discount *= discounts[:, k : k + 1] * self.discount
        return tensordict.set("reward", reward).set("discount", discount)
