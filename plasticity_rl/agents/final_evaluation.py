"""One more evaluation when training has come to its end, of many episodes: what tables of papers are made of."""

from __future__ import annotations

from typing import Any

import torch

from plasticity_rl.data.evaluation import all_episodes

Agent = Any
"""An :class:`plasticity_rl.RLModule`, which is built on this file."""


def log_final_evaluation(agent: Agent) -> None:
    """Play ``data.final_eval_episodes`` whole episodes of the current task and log their returns; none where it is 0.

    It follows the last of the other evaluations, before the checkpoint is written: a run that is killed in it goes on
    from the checkpoint before, and one that is finished is not evaluated again. Callbacks are not told about it.

    Args:
        agent: In a Trainer that fits, in evaluation mode; all ranks call it at the same point.
    """
    data = agent.data
    number = data.final_eval_episodes
    if not number:
        return
    films, data.keep_frames_of = data.keep_frames_of, None
    own = range(agent.global_rank, number, data.world_size)
    played = all_episodes([agent.play_evaluation(episode) for episode in own])
    data.keep_frames_of = films
    returns = torch.tensor([episode.episode_return for episode in played], dtype=torch.float64)
    steps = torch.tensor([episode.env_steps for episode in played], dtype=torch.float64)
    agent.log_scalars(
        {
            "final/return": returns.mean(),
            "final/return_std": returns.std(correction=0),
            "final/episode_steps": steps.mean(),
        }
    )
