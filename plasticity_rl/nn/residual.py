"""Residual streams: blocks whose output is added to their input, and the normalisation of observations before them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Residual(nn.Sequential):
    """``x + f(x)``, with ``f`` the layers inside it, from first to last.

    The stream that ``x`` is belongs to no single layer: every block before has added to it, and every block behind
    reads it. So what feeds it or reads it has no units of its own; the layers inside a block have, see
    :func:`plasticity_rl.nn.units.unit_layers`.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Add what the layers make of ``(batch, n)`` to it."""
        return input + super().forward(input)


class RunningNorm(nn.Module):
    """Normalises the leading inputs by running statistics; the inputs behind them (an action) pass as they are.

    ``(x - mean) / sqrt(var + epsilon)``, with nothing clipped. Before the first observation it is the identity, up to
    ``epsilon``. Statistics change in :meth:`update` alone, never in a pass, also not in training mode.

    Args:
        size: Number of leading inputs that are normalised.
        epsilon: Added to the variance.

    Attributes:
        mean: Float64 ``(size,)``: a sum over millions of observations would stand still in float32.
        var: Float64 ``(size,)``, uncorrected variance.
        count: Float64, observations so far, from 0.0001 on, so that the first one is divided by a number.
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, size: int, epsilon: float = 1e-8) -> None:
        super().__init__()
        self.size, self.epsilon = size, epsilon
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("var", torch.ones(size, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(1e-4, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map ``(..., size + others)`` to the same shape."""
        mean, scale = self.mean.to(inputs.dtype), (self.var + self.epsilon).rsqrt().to(inputs.dtype)
        normalised = (inputs[..., : self.size] - mean) * scale
        if inputs.shape[-1] == self.size:
            return normalised
        return torch.cat([normalised, inputs[..., self.size :]], dim=-1)

    @torch.no_grad()
    def update(self, shift: Tensor, square: Tensor, count: int) -> None:
        """Take in observations, of which only moments about the present mean are needed.

        Args:
            shift: Mean of ``x - mean`` over them, float64 ``(size,)``.
            square: Mean of ``(x - mean)^2`` over them, float64 ``(size,)``.
            count: How many there are.

        Source:
            Chan et al. 1979, the parallel form of Welford's recurrence.
        """
        total = self.count + count
        share = count / total
        # Of the pooled second moment about the old mean, (var * n + square * m) / (n + m), the new mean takes a part.
        self.var.copy_((1 - share) * self.var + share * square - (share * shift).square())
        self.mean.add_(share * shift)
        self.count.copy_(total)

    def extra_repr(self) -> str:
        """Return what ``repr`` says of it."""
        return f"{self.size}, epsilon={self.epsilon}"
