"""How an agent reads value heads whose outputs are logits over bins: as values, and in the loss as distributions."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plasticity_rl import losses


class ValueHistogram(nn.Module):
    """Values as the means of histograms over a fixed range, learned by classification; no parameters.

    Args:
        v_min: Left edge of the first bin, in units of the return.
        v_max: Right edge of the last bin.
        bins: Number of bins, all of one width.
        sigma: Standard deviation of the Gaussian that a target becomes, in units of the return.

    Attributes:
        edges: ``(bins + 1,)``.
    """

    edges: Tensor

    def __init__(self, v_min: float, v_max: float, bins: int, sigma: float) -> None:
        super().__init__()
        self.bins, self.sigma = bins, sigma
        self.register_buffer("edges", torch.linspace(v_min, v_max, bins + 1), persistent=False)

    def values(self, logits: Tensor) -> Tensor:
        """Return the means of the histograms: logits ``(..., bins)`` to values ``(..., 1)``."""
        return losses.expectation(logits, (self.edges[:-1] + self.edges[1:]) / 2).unsqueeze(-1)

    def cross_entropies(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the cross entropy of every sample, in nats.

        Args:
            logits: ``(batch, bins)``.
            target: ``(batch, 1)`` values, without gradient.

        Returns:
            ``(batch,)``.
        """
        return F.cross_entropy(logits, losses.hl_gauss(target, self.edges, self.sigma), reduction="none")

    def critic_loss(self, heads: Iterable[Tensor], target: Tensor) -> Tensor:
        """Return the sum over heads ``(batch, bins)`` of their mean cross entropy with ``(batch, 1)`` targets."""
        return torch.stack([self.cross_entropies(logits, target).mean() for logits in heads]).sum()

    def fraction_outside(self, target: Tensor) -> Tensor:
        """Return the fraction of the targets that lie outside of the range and count as its ends; in [0, 1]."""
        return ((target < self.edges[0]) | (target > self.edges[-1])).float().mean()
