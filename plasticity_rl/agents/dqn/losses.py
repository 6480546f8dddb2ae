"""Losses of agents that learn the value of every action, of numbers and of distributions, as pure functions."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def values_of(values: Tensor, action: Tensor) -> Tensor:
    """Return what was put out for the action taken.

    Args:
        values: ``(batch, num_actions, atoms)``.
        action: int64 ``(batch, 1)``.

    Returns:
        ``(batch, atoms)``.
    """
    return values.gather(1, action[:, :, None].expand(-1, -1, values.shape[-1])).squeeze(1)


def values_taken(outputs: Tensor, action: Tensor, num_actions: int) -> Tensor:
    """Return the values of one action from what :meth:`RLModule.forward_all` gives of the module of the values.

    Args:
        outputs: ``(batch, n)``: the values of all discrete actions, those of several heads side by side; other sizes
            are values already, and so are those of continuous actions.
        action: ``(batch, 1)`` int64, or continuous.
        num_actions: Number of discrete actions; 0: continuous ones.

    Returns:
        ``(batch, heads)``.
    """
    if not num_actions or outputs.shape[1] % num_actions:
        return outputs
    return values_of(outputs.unflatten(1, (-1, num_actions)).mT, action)


def td_target(reward: Tensor, discount: Tensor, next_values: Tensor, best: Tensor) -> Tensor:
    """Return ``reward + discount * next_values[best]`` (van Hasselt et al. 2016, arXiv 1509.06461).

    Args:
        reward: ``(batch, 1)`` n-step discounted reward.
        discount: ``(batch, 1)`` product of the n discounts, 0 after a termination.
        next_values: ``(batch, num_actions)`` of the target network at the state n steps later.
        best: int64 ``(batch, 1)``: the online network's best action there (double) or the target network's own.

    Returns:
        ``(batch, 1)``.
    """
    return reward + discount * next_values.gather(1, best)


def value_losses(values: Tensor, target: Tensor, loss: str) -> Tensor:
    """Return the loss of every sample: Huber's of width 1 (half the square within it), or half the square.

    Args:
        values: ``(batch, 1)`` of the actions taken.
        target: ``(batch, 1)``, without gradient.
        loss: ``huber`` or ``mse``.

    Returns:
        ``(batch,)``.
    """
    if loss == "huber":
        return F.huber_loss(values, target, reduction="none").squeeze(1)
    return 0.5 * F.mse_loss(values, target, reduction="none").squeeze(1)


def project(next_probabilities: Tensor, reward: Tensor, discount: Tensor, support: Tensor) -> Tensor:
    r"""Project the distribution of ``reward + discount * Z`` on the support of Z (Bellemare et al. 2017, 1707.06887).

    The probability of atom j moves to :math:`r + \gamma^n z_j`, clipped to the support, and is shared by the two atoms
    around it in proportion to their nearness (Eq. 7): atom i receives
    :math:`\sum_j p_j\,[1 - |\mathrm{clip}(r + \gamma^n z_j) - z_i| / \Delta z]_0^1`.

    Args:
        next_probabilities: ``(batch, atoms)``, sums of 1.
        reward: ``(batch, 1)``.
        discount: ``(batch, 1)``.
        support: ``(atoms,)``, evenly spaced, ascending.

    Returns:
        ``(batch, atoms)``, sums of 1.
    """
    spacing = support[1] - support[0]
    moved = (reward + discount * support).clamp(support[0], support[-1])  # (batch, atoms)
    share = (1.0 - (moved[:, None, :] - support[None, :, None]).abs() / spacing).clamp(0.0, 1.0)  # (batch, to, from)
    return (share * next_probabilities[:, None, :]).sum(-1)


def categorical_losses(logits: Tensor, target: Tensor) -> Tensor:
    """Return the cross entropy of every sample.

    Args:
        logits: ``(batch, atoms)`` of the actions taken.
        target: ``(batch, atoms)`` probabilities, without gradient.

    Returns:
        ``(batch,)`` in nats.
    """
    return -(target * logits.log_softmax(-1)).sum(-1)


def mean_weighted(losses: Tensor, weight: Tensor | None) -> Tensor:
    """Return the mean of losses ``(batch,)``, each times its importance weight ``(batch, 1)`` if there are any."""
    return losses.mean() if weight is None else (losses * weight.view(-1)).mean()
