"""Fold the steps of a window into one transition."""

from __future__ import annotations

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
        rewards, discounts = tensordict.get("reward"), tensordict.get("discount") * self.discount
        if self.reward_clip is not None:
            rewards = rewards.clamp(-self.reward_clip, self.reward_clip)
        first, *later = zip(rewards.unbind(1), discounts.unbind(1), strict=True)
        reward, discount = first[0] + 0.0, first[1]  # a sum that begins at 0 has no negative zero
        for next_reward, next_discount in later:
            reward = reward + discount * next_reward
            discount = discount * next_discount
        return tensordict.set("reward", reward[:, None]).set("discount", discount[:, None])
