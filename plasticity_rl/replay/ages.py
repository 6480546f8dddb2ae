"""Weights of records by their age, and draws in proportion to them."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity_rl.errors import at_least, within


class AgeWeights:
    """Weights ``max(floor, 1 - age / decay_steps)``; the newest record of a lane has age 1.

    A draw costs the logarithm of ``decay_steps``, however many records there are.

    Args:
        decay_steps: T, records (env steps of one environment) over which a weight falls, at least 1.
        floor: Weight of what is older, in (0, 1].

    Raises:
        UserError: When one of them is out of range.

    Source:
        Wu et al. 2026 (arXiv 2604.01913), sample weight decay.
    """

    def __init__(self, decay_steps: int, floor: float) -> None:
        at_least("decay_steps", decay_steps, 1)
        within("floor", floor, "(0, 1]")
        self.decay_steps, self.floor = decay_steps, floor
        falling = self.of(torch.arange(1, decay_steps + 1))
        self._sums = torch.cat([torch.zeros(1, dtype=torch.float64), falling.cumsum(0)])

    def of(self, ages: Tensor) -> Tensor:
        """Return the weights of records of these ages, float64."""
        return (1.0 - ages.double() / self.decay_steps).clamp(min=self.floor)

    def draw(self, live: Tensor, count: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Draw records in proportion to their weights, with replacement.

        Args:
            live: int64 [num_lanes], how many records of each lane there are, of ages 1 to that; not all 0.
            count: Number of draws.
            generator: Source of all random numbers.

        Returns:
            Lanes and ages, int64 [count] each.
        """
        older = (live - self.decay_steps).clamp(min=0)
        totals = self._sums[live.clamp(max=self.decay_steps)] + self.floor * older
        ends = totals.cumsum(0)
        points = torch.rand(count, dtype=torch.float64, generator=generator) * ends[-1]
        lanes = torch.searchsorted(ends, points, right=True).clamp(max=len(live) - 1)
        points = points - (ends - totals)[lanes]
        ages = torch.searchsorted(self._sums[1:].contiguous(), points, right=True) + 1
        beyond = ((points - self._sums[-1]) / self.floor).floor().long() + self.decay_steps + 1
        ages = torch.where(points >= self._sums[-1], beyond, ages)
        return lanes, torch.minimum(ages, live[lanes])
