"""A new run with the weights of a checkpoint, and nothing else of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import lightning.pytorch as pl
from torch import Tensor

from plasticity_rl.agents.base import RLModule
from plasticity_rl.checkpoint_files import read_checkpoint
from plasticity_rl.errors import UserError

NAMED = 3
"""Parameters of each kind that a message lists."""


def init_weights(agent: RLModule, checkpoint: str | os.PathLike[str], callbacks: Iterable[pl.Callback] = ()) -> None:
    """Give an agent that has not been trained the weights of a checkpoint; ``fit --init_weights`` does so too.

    All networks are those of the checkpoint, target networks and buffers included (of SAC the temperature too, which is
    a weight). Everything else is that of a new run: optimizers, clocks, replay, random numbers, callbacks. What those
    keep of the beginning (initial weights, averages) is of these weights. The file alone is enough, of any task in
    which the networks have the same shapes.

    In a Trainer every rank begins with them. A run that is resumed takes its weights from its own checkpoint.

    Args:
        agent: Edited in place.
        checkpoint: File of one.
        callbacks: Those of the run, if some of them shape the networks (``LayerNorm``, ``CURL``).

    Raises:
        UserError: When the file is no checkpoint, or names of parameters or shapes differ; all are named.
    """
    agent.build(callbacks)
    saved = read_checkpoint(checkpoint)["state_dict"]
    refuse_other_weights(saved, agent.state_dict(), checkpoint)
    agent.load_state_dict(saved)
    agent.began_with(checkpoint)


def refuse_other_weights(
    saved: Mapping[str, Tensor], own: Mapping[str, Tensor], checkpoint: str | os.PathLike[str]
) -> None:
    """Raise UserError naming what a network lacks, has beyond, or has in another shape than a checkpoint."""
    shapes = [
        f"{name} ({list(saved[name].shape)} there, {list(own[name].shape)} here)"
        for name in own
        if name in saved and saved[name].shape != own[name].shape
    ]
    found = {
        "missing in it": [name for name in own if name not in saved],
        "unknown here": [name for name in saved if name not in own],
        "of another shape": shapes,
    }
    if any(found.values()):
        parts = "; ".join(f"{kind}: {_some(names)}" for kind, names in found.items() if names)
        raise UserError(
            f"init_weights={checkpoint}: its weights do not fit this agent: {parts}; use the agent, the sizes of "
            "networks and images, and the callbacks that shape networks, of the run that wrote it"
        )


def _some(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
