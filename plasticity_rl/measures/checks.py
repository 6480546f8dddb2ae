"""Input that a measure is not defined for."""

from __future__ import annotations

import torch
from torch import Tensor


class NotFiniteError(ValueError):
    """A measure was given NaN or infinity."""


def refuse_not_finite(tensor: Tensor, what: str) -> None:
    """Raise NotFiniteError, a ValueError, when ``tensor`` holds NaN or infinity. Waits for a GPU."""
    if not bool(torch.isfinite(tensor).all()):
        raise NotFiniteError(f"the {what} hold NaN or infinity, so the measure is not defined")
