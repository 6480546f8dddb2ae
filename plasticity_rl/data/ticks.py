"""What Lightning iterates over: one batch is one tick, some env steps, so there is nothing to load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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


def recount(loops: Mapping[str, Any], *, env_steps: int, before: int, now: int) -> int:
    """Count the ticks of the epoch that a checkpoint was written in as ticks of another length.

    Evaluations stay where they were: ticks end a multiple of their length before the next one. After the end of a run,
    which may have been in the middle of a tick, they end at multiples of it from the run's start, as before.

    Args:
        loops: Entry ``loops`` of the checkpoint, Lightning's progress, edited in place.
        env_steps: Env steps of every env until then.
        before: Env steps of a tick in the run that wrote it.
        now: Env steps of a tick from here on.

    Returns:
        Env steps of the first tick from here on: what is left of one that would be under way.
    """
    epochs = loops["fit_loop"]["epoch_progress"]["total"]
    done = loops["fit_loop"]["epoch_loop.batch_progress"]["current"]
    steps = done["ready"] * before
    shift = steps // now - done["ready"]
    for name in done:  # one that is not completed yet, where the checkpoint was written at its end, stays so
        done[name] += shift
    return now - (env_steps if epochs["processed"] == epochs["started"] else steps) % now
