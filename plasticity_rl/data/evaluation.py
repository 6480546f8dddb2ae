"""Play evaluation episodes: deterministic, seeded, without memory of earlier evaluations, shared out to the ranks."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor
from torchrl.envs import EnvBase

from plasticity_rl.data.collector import Policy
from plasticity_rl.distributed.ranks import gathered
from plasticity_rl.envs.films import film_frame

MAX_FILM_STEPS = 1000
"""Env steps of a film: as many as an episode of dm_control has, of which some games would fill all memory."""


class WatchedPolicy:
    """A policy that knows whether it is being called: its errors are not those of the environment."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.acting = policy, False

    def __call__(self, observations: Tensor) -> Tensor:
        """Call the policy; after an error ``acting`` stays true."""
        self.acting = True
        actions = self.policy(observations)
        self.acting = False
        return actions


@dataclass
class Episode:
    """What one evaluation episode gave.

    Attributes:
        episode_return: Sum of the rewards (undiscounted).
        env_steps: Number of agent decisions.
        frames: The newest frame of every observation, of games their screen in colour, uint8 ``(3, height, width)``
            each; those of the first 1000 env steps, empty unless asked for.
        rewards: Rewards in the order of time, one per env step.
        first_observation: ``(*obs_shape)``, on the CPU.
        last_observation: The one after the last action, likewise.
        terminated: Whether nothing follows the last reward, instead of a time limit having cut the episode.
        observations: Those that were acted on, in the order of time, likewise; empty for images, which are too large.
    """

    episode_return: float
    env_steps: int
    frames: list[Tensor] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    first_observation: Tensor | None = None
    last_observation: Tensor | None = None
    terminated: bool = False
    observations: list[Tensor] = field(default_factory=list)

    @property
    def score(self) -> tuple[float, int]:
        """Return and number of env steps."""
        return self.episode_return, self.env_steps


# Lightning validates in inference mode, whose tensors (the env's frame stack) cannot be edited outside it later.
@torch.inference_mode(False)
@torch.no_grad()
def play_episode(
    env: EnvBase, policy: Policy, seed: int, *, keep_frames: bool = False, observation: str = "pixels"
) -> Episode:
    """Seed ``env``, then play one episode with ``policy``.

    The same seed gives the same start, so evaluations at different frames and of different arms are paired, and there
    is nothing to put into a checkpoint.

    Args:
        env: A single env (batch shape ``[]``).
        policy: Maps an observation ``(1, *obs_shape)`` to an action ``(1, action_dim)``.
        seed: Seed of the episode.
        keep_frames: Whether to keep the frames, for a video; from pixels only, since nothing is drawn for it.
        observation: Key of the observation that the policy is given.
    """
    keep_frames = keep_frames and observation == "pixels"
    env.set_seed(seed)
    step = env.reset()
    rewards: list[float] = []
    first_observation = step[observation].cpu().clone()
    observations: list[Tensor] = []
    frames = [film_frame(env, step["pixels"])] if keep_frames else []
    while True:
        observations += [step[observation].cpu().clone()] if observation == "state" else []
        step = env.step(step.set("action", policy(step[observation][None])[0]))["next"]
        rewards.append(float(step["reward"]))
        if keep_frames and len(frames) <= MAX_FILM_STEPS:
            frames.append(film_frame(env, step["pixels"]))
        if bool(step["done"]):
            last, terminated = step[observation].cpu().clone(), bool(step["terminated"])
            return Episode(
                sum(rewards), len(rewards), frames, rewards, first_observation, last, terminated, observations
            )


def all_episodes(own: Sequence[Episode]) -> list[Episode]:
    """Return the evaluation episodes of all ranks, which take turns: rank 0 has the first. Films stay with their rank.

    Args:
        own: Episodes of this rank, in order.
    """
    if not dist.is_initialized():
        return list(own)
    shares = gathered([dataclasses.replace(episode, frames=[]) for episode in own])
    shares[dist.get_rank()] = list(own)
    return [episode for turn in itertools.zip_longest(*shares) for episode in turn if episode is not None]
