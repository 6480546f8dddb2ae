"""What the updates of all agents do in the same way: columns of a batch, targets that follow, what they return."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


def reward_and_discount(batch: TensorDictBase) -> tuple[Tensor, Tensor]:
    """Return ``reward`` and ``discount`` of a batch as columns ``(B, 1)``, whatever they came as.

    Flat ones would broadcast with values ``(B, 1)`` to ``(B, B)`` without a word.
    """
    return batch["reward"].view(-1, 1), batch["discount"].view(-1, 1)


@torch.no_grad()
def follow(targets: Sequence[nn.Module], online: Sequence[nn.Module], tau: float) -> None:
    """Move the weights of target networks towards those of their twins, in place, in one call for all.

    Args:
        targets: Networks that follow.
        online: Their twins, in the same order.
        tau: Share of the way, in (0, 1].
    """
    get_ema_multi_avg_fn(1.0 - tau)(_weights(targets), _weights(online), None)


@torch.no_grad()
def copy_weights(targets: Sequence[nn.Module], online: Sequence[nn.Module]) -> None:
    """Give target networks the weights of their twins, and their buffers, in place; see :func:`follow`.

    Without the buffers a twin would divide the same weights by another spectral norm, that of its old ones.
    """
    torch._foreach_copy_(_weights(targets), _weights(online))
    for old, new in zip(_buffers(targets), _buffers(online), strict=True):
        old.copy_(new)


def _weights(modules: Iterable[nn.Module]) -> list[Tensor]:
    return [p.detach() for module in modules for p in module.parameters()]


def _buffers(modules: Iterable[nn.Module]) -> list[Tensor]:
    return [buffer for module in modules for buffer in module.buffers()]


def detached(metrics: Mapping[str, Tensor]) -> TensorDict:
    """Return the scalars that an update hands to the log, without their graphs."""
    return TensorDict({tag: value.detach() for tag, value in metrics.items()}, batch_size=[])
