"""What an agent refuses about the data module that it is trained with."""

from __future__ import annotations

from collections.abc import Sequence

import lightning.pytorch as pl

from plasticity_rl.agents.hooks import fill_replay
from plasticity_rl.data.module import RLDataModule
from plasticity_rl.data.options import refuse_large_batches
from plasticity_rl.errors import UserError


def refuse_other_observations(observation_key: str, data: RLDataModule) -> None:
    """Raise UserError when ``data`` gives other observations than the agent was made for (``observation_key``)."""
    if observation_key != data.observation:
        raise UserError(
            f"data.observation={data.observation}, but the agent was made for {observation_key}: "
            "give it the data module's obs_shape"
        )


def refuse_other_actions(agent: str, num_actions: int, data: RLDataModule) -> None:
    """Raise UserError when the actions of ``data`` are not of the kind that the agent chooses.

    Args:
        agent: Its name.
        num_actions: Number of discrete actions that it chooses among; 0: it chooses continuous ones.
        data: Says what the environment takes.
    """
    if num_actions != data.num_actions:
        mine, theirs = (f"{n} discrete actions" if n else "continuous actions" for n in (num_actions, data.num_actions))
        raise UserError(
            f"data.task={data.task} has {theirs}, and {agent} chooses {mine}: train it on a task that has those, or "
            "another agent on this one"
        )


def refuse_priorities_of_nobody(agent: str, sets_priorities: bool, data: RLDataModule) -> None:
    """Raise UserError when batches are to be drawn by priority, and the agent would leave all priorities equal.

    Args:
        agent: Its name.
        sets_priorities: Whether its updates set priorities.
        data: Says how batches are drawn.
    """
    if data.prioritized and not sets_priorities:
        raise UserError(
            f"data.prioritized=true: {agent} does not set priorities, so that all would stay equal: leave it out, or "
            "train an agent that does"
        )


def refuse_batches(num_seed_frames: int, data: RLDataModule, callbacks: Sequence[pl.Callback]) -> None:
    """Raise UserError when memory cannot hold a callback's batch, or the first update would have too few transitions.

    Args:
        num_seed_frames: Env frames before the first update.
        data: Says how large a batch is.
        callbacks: All of the run; one may fill the replay beforehand.
    """
    refuse_large_batches(callbacks, data.observation_bytes)
    if fill_replay(callbacks):
        return
    seed_transitions = num_seed_frames // data.action_repeat
    if data.batch_size > seed_transitions:
        raise UserError(
            f"data.batch_size={data.batch_size} is larger than the {seed_transitions} transitions of the seed "
            f"phase (model.num_seed_frames={num_seed_frames} / action_repeat {data.action_repeat}): "
            f"use num_seed_frames >= {data.batch_size * data.action_repeat} or a smaller batch"
        )
