"""The options of the data module that are not the environment's, and what it refuses before anything is built."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from torchrl.envs import EnvBase

from plasticity_rl.envs.make import make_env
from plasticity_rl.envs.options import EnvironmentOptions
from plasticity_rl.errors import UserError, at_least, at_most, is_whole, one_of, within
from plasticity_rl.machine.capacity import largest_memory, show_bytes
from plasticity_rl.replay.layout import STORAGES
from plasticity_rl.replay.prioritized import Priorities
from plasticity_rl.schedules import corners, parse_schedule

MAX_NUM_ENVS = 1024
"""Environments of a rank: each is a lane of the replay, and one tick steps all of them before anything is learned."""
MAX_EVAL_EPISODES = 10_000
"""Episodes of one evaluation: ten million env frames, three times the longest published run."""


OF_PRIORITIES = (("priority_exponent", 0.5), ("priority_beta", 0.4))
"""Options that mean nothing without ``prioritized``, with their defaults: Rainbow's (Hessel et al. 2018, arXiv
1710.02298, table 1), where beta grows to 1 in the course of training."""


@dataclass(eq=False, repr=False, kw_only=True)
class DataOptions:
    """Options of the data module that every environment has; it derives from this, so they are its attributes.

    Args:
        num_envs: Environments, on each rank.
        env_workers: Processes that step and draw them, on each rank, at most ``num_envs``: as many environments in each
            as it goes, the same numbers whatever they are. 0 steps them one after the other in this process.
        env_steps_per_tick: Env steps of each environment, with their updates, in one batch of Lightning's loop, after
            which a run may save or stop when it is asked to: 50 save about half a millisecond per env step. No number
            follows from it. Callbacks of others get ``on_train_batch_end`` once a tick.
        overlap: Step the environments beside the updates, in the ``env_workers`` or else a thread, and read the next
            batch in another. Actions are then chosen before the updates that they run beside
            (``clock/policy_lag_updates``); all else is as without.
        n_step: Steps of the n-step return.
        discount: Discount factor gamma per env step, in [0, 1].
        reward_clip: Rewards that are learned are clipped to plus or minus this, before they are summed over n steps (1
            on Atari); returns are shown as the environment gives them. None: not clipped.
        prioritized: Draw batches in proportion to priorities (the last losses), where the agent sets some: for one
            device, without ``overlap``.
        priority_exponent: Of ``prioritized``: priorities count to this power, in [0, 1]; Rainbow's is 0.5.
        priority_beta: Of ``prioritized``: exponent of the importance weights, in [0, 1]; a number, or a schedule in
            env steps from the start of the run on, such as Rainbow's ``linear(0.4,1.0,50000000)`` over the whole run.
        batch_size: Transitions per gradient update; each rank samples its share.
        capacity: Records the replay keeps: one per transition and one more per episode, its last frame.
        storage: ``ram``; ``memmap`` for files in the run folder; ``device`` for the memory of the GPU that trains,
            where batches are then put together (21 GB for a million transitions of 84 pixels).
        draw_on_device: With ``storage=device``, also draw the transitions of a batch there, so that a batch costs one
            launch and waits for nothing. As likely as without, but others: from another generator. On a CPU nothing is
            gained.
        max_frames: Env frames at which training stops.
        eval_every_n_frames: Env frames between evaluations; a multiple of a tick, ``action_repeat * num_envs * ranks *
            env_steps_per_tick``.
        num_eval_episodes: Episodes per evaluation.
        final_eval_episodes: Episodes of one more evaluation when training has come to its end, as ``final/return``;
            0 for none. Their starts are those of the evaluations before, and more.
        seed: Seed of environments and replay sampling; the command line links it to ``seed_everything``.
        replay_dir: Folder of the replay files that make a resume exact; None is ``replay/`` in the run folder
            (``trainer.default_root_dir``). They are written at checkpoints, or at once with ``storage="memmap"``.
        resumable_epochs: Epochs (``eval_every_n_frames``) back to which a checkpoint can still be resumed once the
            replay has been full, if episodes last as many env steps on average; each, and one more for the last frames
            of episodes, costs that many more records of disk and, with ``ram``, of memory.
        allow_empty_replay: Resume a checkpoint whose replay files are gone, with an empty replay: not exact. The policy
            then collects ``num_seed_frames`` env frames without updates, as before the first one.
        exact_resume: Whether the environments must be able to save themselves in the middle of an episode, so that a
            resumed run equals one that was not stopped. With false others may run too: resumed, they begin a new
            episode, and a line says so at every start.
        env: Factory with the signature of ``plasticity_rl.make_env``, for environments of your own.
    """

    num_envs: int = 1
    env_workers: int = 0
    env_steps_per_tick: int = 1
    overlap: bool = False
    n_step: int = 3
    discount: float = 0.99
    reward_clip: float | None = None
    prioritized: bool = False
    priority_exponent: float = 0.5
    priority_beta: str | float = 0.4
    batch_size: int = 256
    capacity: int = 1_000_000
    storage: Literal["ram", "memmap", "device"] = "ram"
    draw_on_device: bool = False
    max_frames: int = 3_100_000
    eval_every_n_frames: int = 10_000
    num_eval_episodes: int = 10
    final_eval_episodes: int = 0
    seed: int = 0
    replay_dir: str | None = None
    resumable_epochs: int = 2
    allow_empty_replay: bool = False
    exact_resume: bool = True
    env: Callable[..., EnvBase] = make_env

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        counts = ("num_envs", "env_steps_per_tick", "n_step", "batch_size", "capacity", "max_frames")
        for name in (*counts, "eval_every_n_frames", "num_eval_episodes", "resumable_epochs"):
            at_least(f"data.{name}", getattr(self, name), 1)
        if not is_whole(self.seed) or not 0 <= self.seed < 2**32:
            raise UserError(f"data.seed={self.seed!r} must be a whole number from 0 to {2**32 - 1}")
        if self.capacity < self.batch_size:
            raise UserError(
                f"data.capacity={self.capacity} keeps fewer transitions than one batch has "
                f"(data.batch_size={self.batch_size}): raise --data.capacity, or lower --data.batch_size"
            )
        within("data.discount", self.discount, "[0, 1]", "; the published value is 0.99")
        if self.reward_clip is not None:
            within("data.reward_clip", self.reward_clip, "(0, inf)", "; leave it out for no clipping")
        self._check_priorities()
        one_of("data.storage", self.storage, STORAGES)
        self._check_drawing()
        if self.replay_dir is not None and not str(self.replay_dir).strip():
            raise UserError(
                "data.replay_dir='' names no folder; give one, or leave it out for replay/ in the run folder"
            )
        reason = "nothing is learned before all of them were stepped, and no published run has more"
        at_most("data.num_envs", self.num_envs, MAX_NUM_ENVS, reason)
        self._check_workers()
        reason = "an evaluation would be longer than the longest published runs"
        at_most("data.num_eval_episodes", self.num_eval_episodes, MAX_EVAL_EPISODES, reason)
        at_least("data.final_eval_episodes", self.final_eval_episodes, 0, "; published for Atari-100k: 100")
        at_most("data.final_eval_episodes", self.final_eval_episodes, MAX_EVAL_EPISODES, reason)

    @property
    def times_steps(self) -> str:
        """What a message adds to ``num_envs`` where it means a whole tick."""
        return f" * env_steps_per_tick={self.env_steps_per_tick}" if self.env_steps_per_tick > 1 else ""

    def _check_workers(self) -> None:
        at_least("data.env_workers", self.env_workers, 0, "; 0 steps the environments in this process")
        if self.env_workers > self.num_envs:
            raise UserError(
                f"data.env_workers={self.env_workers} must be at most data.num_envs={self.num_envs}, since a process "
                "steps whole environments: raise --data.num_envs, or lower it"
            )
        if self.env_workers and sys.platform == "win32":
            raise UserError(
                f"data.env_workers={self.env_workers} needs Linux or macOS, whose processes share memory as it is done "
                "here: leave it out"
            )

    def _check_priorities(self) -> None:
        within("data.priority_exponent", self.priority_exponent, "[0, 1]", "; published: 0.5 and 0.6")
        beta = parse_schedule(self.priority_beta, option="data.priority_beta")
        for value in corners(beta):
            within("data.priority_beta", value, "[0, 1]", f" (given: {self.priority_beta!r}); 1 corrects fully")
        if not self.prioritized:
            for name, default in OF_PRIORITIES:
                if str(getattr(self, name)) != str(default):
                    raise UserError(
                        f"data.{name}={getattr(self, name)} does nothing without priorities: add --data.prioritized "
                        "true, or leave it out"
                    )
        elif self.overlap:
            raise UserError(
                "data.overlap=true begins the next batch before the update that sets its priorities, so it cannot be "
                "had with data.prioritized=true: leave out one of them"
            )

    def _check_drawing(self) -> None:
        if self.draw_on_device and self.storage != "device":
            raise UserError(
                f"data.draw_on_device=true draws batches where the replay lies, and data.storage={self.storage} is not "
                "on the device that trains: add --data.storage device, or leave it out"
            )
        if self.draw_on_device and self.prioritized:
            raise UserError(
                "data.draw_on_device=true draws all transitions alike, so it cannot be had with data.prioritized=true: "
                "leave out one of them"
            )

    def priorities(self, env_steps: Callable[[], int]) -> Priorities | None:
        """Return how batches are drawn by priority, or None for uniformly.

        Args:
            env_steps: Returns the env steps so far, in which ``priority_beta`` counts.
        """
        if not self.prioritized:
            return None
        beta = parse_schedule(self.priority_beta, option="data.priority_beta")
        return Priorities(self.priority_exponent, lambda: beta(env_steps()))

    def refuse_ranks(self, world_size: int) -> None:
        """Raise UserError when ``world_size`` ranks cannot share a batch evenly, or not by priority."""
        if missing := -self.batch_size % world_size:
            raise UserError(
                f"data.batch_size={self.batch_size} must be a multiple of the {world_size} ranks (trainer.devices * "
                f"trainer.num_nodes), each of which samples its share: use {self.batch_size + missing}"
            )
        if self.prioritized and world_size > 1:
            raise UserError(
                f"data.prioritized=true is for one device, not for {world_size} ranks, each of which would draw by the "
                "priorities of its own replay: --trainer.devices 1, or leave it out"
            )


def refuse_misfit(options: DataOptions, environment: EnvironmentOptions) -> None:
    """Raise UserError when a run is shorter than one step of all environments, or a batch larger than memory."""
    tick = environment.action_repeat * options.num_envs
    if tick > options.max_frames:
        raise UserError(
            f"data.num_envs={options.num_envs} * data.action_repeat={environment.action_repeat} = {tick} env frames "
            f"are one step of all environments, more than the run has (max_frames={options.max_frames}): lower them, "
            "or raise it"
        )
    refuse_large_batch(options.batch_size, environment.least_observation_bytes, "data.batch_size")


def refuse_long_return(option: str, n_step: int, environment: EnvironmentOptions, episode_steps: float | None) -> None:
    """Raise UserError for n-step returns that no episode is long enough for.

    Args:
        option: What n is called.
        n_step: Steps of the return.
        environment: Of the run.
        episode_steps: Env steps of its longest episodes; None where environments do not say how long theirs are.
    """
    if episode_steps is not None and n_step > episode_steps:
        raise UserError(
            f"{option}={n_step} does not fit in an episode of {environment.task}, which has "
            f"{episode_steps:.0f} env steps (action_repeat={environment.action_repeat}), so no update would ever "
            f"happen: lower {'--' * option.startswith('data.')}{option}"
        )


def refuse_large_batch(batch_size: int, observation_bytes: int, option: str) -> None:
    """Raise UserError when the observations of one batch, before and after each transition, exceed all memory.

    Args:
        batch_size: Transitions of the batch.
        observation_bytes: Bytes of one observation, as it is stored.
        option: What the batch size is called.
    """
    num_bytes, memory = 2 * batch_size * observation_bytes, largest_memory()
    if memory is not None and num_bytes > memory:
        raise UserError(
            f"{option}={batch_size}: the observations of one batch alone take {show_bytes(num_bytes)}, but "
            f"{show_bytes(memory)} of memory are available: lower it, --data.image_size or --data.frame_stack"
        )


def refuse_large_batches(callbacks: Iterable[Any], observation_bytes: int) -> None:
    """Raise UserError when memory cannot hold the batch of a callback's own (its argument ``batch_size``)."""
    for callback in callbacks:
        if isinstance(batch_size := getattr(callback, "batch_size", None), int):
            refuse_large_batch(batch_size, observation_bytes, f"{type(callback).__name__}.batch_size")
