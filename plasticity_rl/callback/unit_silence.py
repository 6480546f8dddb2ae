"""How long units stay silent, compared with how long they used to (self-normalized resets)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class SilenceRecord:
    """Inter-firing times of the units of one layer (Farias & Jozefiak 2025, arXiv 2410.20098, Algorithm 1).

    Time is in updates. A unit that fires in two consecutive updates has an inter-firing time of 1 between them.

    Args:
        size: Number of units.
        longest: Inter-firing times from here on are counted together.
    """

    def __init__(self, size: int, *, longest: int) -> None:
        self.longest = longest
        self.silence = torch.zeros(size, dtype=torch.int64)
        self.counts = torch.zeros(size, longest + 1, dtype=torch.int32)

    def observe(self, fired: Tensor) -> None:
        """Take in one update.

        Args:
            fired: Bool ``(size,)``: whether each unit was active anywhere in the batch.
        """
        self.silence += 1
        time = self.silence.clamp(max=self.longest)
        self.counts.scatter_add_(1, time[:, None], fired[:, None].to(self.counts.dtype))
        self.silence.masked_fill_(fired, 0)

    def p_values(self) -> Tensor:
        """Return how unusual the present silence is, ``(size,)`` in (0, 1]: ``(1 + #{A >= a}) / (1 + #A)``.

        A are the unit's own inter-firing times so far, a how long it has now been silent. With few times on record the
        value cannot be small.
        """
        times = torch.arange(self.longest + 1, device=self.counts.device)
        longer = (self.counts * (times >= self.silence.clamp(max=self.longest)[:, None])).sum(1)
        return (1.0 + longer) / (1.0 + self.counts.sum(1))

    def suspicious(self, eta: float) -> Tensor:
        """Return which units are silent for longer than a share ``eta`` of their own times, or for ``longest``."""
        return ((self.silence > 0) & (self.p_values() <= eta)) | (self.silence >= self.longest)

    def forget(self, units: Tensor) -> None:
        """Start the records of these units (mask or indices) anew."""
        self.silence[units] = 0
        self.counts[units] = 0

    def to(self, device: torch.device) -> None:
        """Move to a device."""
        self.silence, self.counts = self.silence.to(device), self.counts.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Return the record as tensors."""
        return {"silence": self.silence, "counts": self.counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.silence, self.counts = state["silence"], state["counts"]
