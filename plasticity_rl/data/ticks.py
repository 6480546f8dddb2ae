"""What Lightning iterates over: one batch is one env step, so there is nothing to load."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class Ticks:
    """A loader of ``range(length)``: sized, without workers, prefetch or state. The loop counts the position."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.length))

    def state_dict(self) -> dict[str, Any]:
        """Nothing to save: tells Lightning that stopping inside an epoch is safe."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to restore."""
