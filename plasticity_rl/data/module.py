"""The LightningDataModule that owns the environment, the collector and the replay; one batch is one tick."""

from __future__ import annotations

import contextlib
import gc
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from tensordict import TensorDictBase
from torchrl.envs import EnvBase

from plasticity_rl.data.collector import Learner, Policy, StepCollector
from plasticity_rl.data.environments import Environments
from plasticity_rl.data.evaluation import Episode, WatchedPolicy, play_episode
from plasticity_rl.data.exactness import refuse_not_exact, said_at_start
from plasticity_rl.data.options import DataOptions, refuse_large_batch, refuse_long_return, refuse_misfit
from plasticity_rl.data.signature import shows_options_of, with_options_of
from plasticity_rl.data.ticks import Ticks
from plasticity_rl.distributed.ranks import all_finished, refuse_different, times_ranks
from plasticity_rl.envs.backends import DEFAULT, names_code, options_class
from plasticity_rl.envs.contract import require_contract
from plasticity_rl.envs.options import EnvironmentOptions
from plasticity_rl.errors import RunFailure, UserError, describe_error, refuse_unknown
from plasticity_rl.files.places import expanded
from plasticity_rl.replay.buffer import FrameReplay, check_fits, replay_bytes
from plasticity_rl.replay.files import holds_replay
from plasticity_rl.replay.layout import storage_on
from plasticity_rl.replay.sum_tree import tree_bytes
from plasticity_rl.rng import derive_seed

OF_ONE_FIT = ("collector", "replay", "replay_folder", "_policy", "_all_can_sample")
"""Attributes of a data module that ``setup`` makes."""


@shows_options_of(options_class(DEFAULT))
class RLDataModule(pl.LightningDataModule, Environments):
    """Environment, collector and replay of one rank.

    With several ranks (``trainer.devices``), frames, env steps, ``capacity`` and ``batch_size`` count all of them
    together; ``num_envs`` are those of each (docs/multi_gpu.md).

    ``**options`` are those of the environment that the name of the task chooses
    (:class:`~plasticity_rl.envs.dmc_options.DMControlOptions`) and of :class:`~plasticity_rl.data.options.DataOptions`,
    whose docstrings explain them; this class shows them in its signature.

    Attributes:
        environment: The options of the environment, as one object.
        obs_shape: Shape of an observation: ``(3 * frame_stack, height, width)``, or ``(n,)`` of a state.
        action_dim: Number of action dimensions; 1 where actions are discrete.
        num_actions: Number of discrete actions, each given by its index; 0 where actions are continuous.

    Raises:
        UserError: For an option that there is not, one that is out of range, or when the environment does not start.
    """

    def __init__(self, task: str = "walker_run", **options: Any) -> None:
        super().__init__()
        own = [field.name for field in fields(DataOptions)]
        DataOptions.__init__(self, **{name: options.pop(name) for name in own if name in options})
        cls = options_class(task)
        refuse_unknown(options, [*cls.names(), *own], "data.")
        try:
            self.environment: EnvironmentOptions = cls(task, **options)
        except UserError as error:  # it begins with the name of the option
            raise UserError(f"data.{error}") from error
        refuse_misfit(self, self.environment)
        self.keep_frames_of: int | None = None
        self.world_size_of_checkpoint: int | None = None
        """Ranks of the run whose checkpoint is looked at with one process, or None for as many as there are."""
        self.new_episodes = False
        """Whether a checkpoint was resumed without its environments, which could not be saved."""
        self.starts_empty = False
        """Whether a checkpoint was resumed without its replay, so that there is nothing to learn from yet."""
        self.refuse_uneven(1)
        self.current_task, self._played = task, False
        self.horizon: tuple[int, float] = (self.n_step, self.discount)
        """The n-step and discount that values are learned with now."""
        self._eval_envs: dict[str, EnvBase] = {}
        # One env is built here, before any training, so that a wrong task or a broken renderer is known at once.
        env_of_task = self.eval_env(task)
        require_contract(env_of_task, task, self.observation)
        self.episode_steps: float | None = getattr(env_of_task, "episode_steps", None)
        refuse_long_return("data.n_step", self.n_step, self.environment, self.episode_steps)
        self.obs_shape: tuple[int, ...] = tuple(env_of_task.observation_spec[self.observation].shape)
        self.action_dim: int = env_of_task.action_spec.shape[-1]
        continuous = env_of_task.action_spec.dtype.is_floating_point
        self.num_actions: int = 0 if continuous else env_of_task.action_spec.space.n
        refuse_large_batch(self.batch_size, self.observation_bytes, "data.batch_size")

    def refuse_uneven(self, world_size: int) -> None:
        """Raise UserError when ``world_size`` ranks cannot share a batch, or the frames between evaluations, evenly."""
        self.refuse_ranks(world_size)
        tick = self.action_repeat * self.num_envs * world_size * self.env_steps_per_tick
        if self.eval_every_n_frames % tick:
            raise UserError(
                f"data.eval_every_n_frames={self.eval_every_n_frames} must be a multiple of "
                f"action_repeat * num_envs{times_ranks(world_size)}{self.times_steps} = {tick}"
            )

    @property
    def observation_bytes(self) -> int:
        """Bytes of one observation: pixels are uint8, states float32."""
        return math.prod(self.obs_shape) * (1 if self.observation == "pixels" else 4)

    @property
    def world_size(self) -> int:
        """Number of ranks that share the run."""
        return self.world_size_of_checkpoint or (self.trainer.world_size if self.trainer is not None else 1)

    @property
    def times_ranks(self) -> str:
        """What a message adds to ``num_envs`` where it means those of all ranks."""
        return times_ranks(self.world_size)

    @property
    def num_envs_of_all_ranks(self) -> int:
        """Env steps of one step of every env of every rank."""
        return self.num_envs * self.world_size

    @property
    def frames_per_step(self) -> int:
        """Env frames that one step of every env of every rank takes."""
        return self.action_repeat * self.num_envs_of_all_ranks

    @property
    def frames_per_tick(self) -> int:
        """Env frames of one batch of Lightning's loop."""
        return self.frames_per_step * self.env_steps_per_tick

    # ---- Lightning --------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Build training env, collector and replay when fitting; evaluation needs none of them."""
        if stage != "fit":
            return
        learner = self._learner
        self.starts_empty = self.new_episodes = False
        self.refuse_uneven(self.world_size)
        self._refuse_drawing_in_threads()
        self._all_can_sample = False
        run_dir, rank = self.trainer.default_root_dir, self.trainer.global_rank  # type: ignore[union-attr]
        refuse_different({"run folder": run_dir, "data.batch_size": self.batch_size, **self._identity()})
        own = expanded(self.replay_dir, "data.replay_dir") if self.replay_dir else None
        folder = Path(own or Path(run_dir) / "replay")
        ranks_here = self.trainer.num_devices  # type: ignore[union-attr]
        device = self.trainer.strategy.root_device  # type: ignore[union-attr]
        check_fits(self.replay_size_bytes * ranks_here, storage_on(self.storage, device), folder, self.priority_bytes)
        self.replay_folder = folder / f"rank{rank}"
        self.replay = self._make_replay(self._slack())
        self.horizon = self.n_step, self.discount
        self._policy: Policy = lambda observations: learner.act(observations, explore=True)
        self._collect(self.task, self._env_seed(rank))
        refuse_not_exact(self.task, self.collector.not_exact if self.exact_resume else "")

    def _env_seed(self, rank: int) -> int:
        return derive_seed(self.seed, f"env/rank{rank}") % (2**32 - self.num_envs) if rank else self.seed

    def _collect(self, task: str, seed: int) -> None:
        build = lambda: self._make_training_env(task, seed)  # noqa: E731
        self.collector = StepCollector(build, self._policy, self.observation, self._failure, self._in_thread)
        self.current_task = task

    def switch_task(self, task: str, *, seed: int, empty_replay: bool = False) -> None:
        """Go on collecting in ``task``, of equal shapes: open episodes are cut.

        Args:
            task: Task name.
            seed: Seed of its fresh environments.
            empty_replay: Whether what was collected so far is sampled no more; else it is kept.
        """
        self.replay.cut_episodes(self.collector.observations())
        if empty_replay:
            self.replay.empty()
            self._all_can_sample = False
        self.collector.close()
        self._collect(task, seed)

    def _make_replay(self, slack: int) -> FrameReplay:
        device, rank = self.trainer.strategy.root_device, self.trainer.global_rank  # type: ignore[union-attr]
        return FrameReplay(
            obs_shape=self.obs_shape,
            action_dim=self.action_dim,
            capacity=-(-self.capacity // self.world_size),
            frame_stack=self.stacked_frames,
            n_step=self.n_step,
            discount=self.discount,
            batch_size=self.batch_size // self.world_size,
            num_lanes=self.num_envs,
            storage=storage_on(self.storage, device),
            device=device,
            draw_on_device=self.draw_on_device,
            folder=self.replay_folder,
            slack=slack,
            seed=derive_seed(self.seed, f"replay/rank{rank}"),
            observation=self.observation,
            num_actions=self.num_actions,
            reward_clip=self.reward_clip,
            priorities=self.priorities(lambda: self._learner.env_steps),
        )

    def set_horizon(self, n_step: int, discount: float) -> None:
        """Let batches have another n-step and discount than ``n_step`` and ``discount``, until the next fit."""
        self.horizon = n_step, discount
        self.replay.set_horizon(n_step, discount)

    def _records_needed(self) -> int:
        """Records of this rank that ``max_frames`` can fill: a short run does not need the whole capacity and slack."""
        most = self.capacity + self.world_size * self.num_envs * self._slack()
        return -(-min(most, -(-self.max_frames // self.action_repeat)) // self.world_size)

    @property
    def replay_size_bytes(self) -> int:
        """Bytes of the replay of one rank once it is full, or as full as the run can fill it."""
        shape, kind = (self.obs_shape, self.stacked_frames, self.action_dim), self.observation
        return replay_bytes(*shape, self._records_needed(), self.num_envs, observation=kind)

    @property
    def priority_bytes(self) -> int:
        """Bytes of memory that the priorities take: 0 where batches are drawn uniformly."""
        slots = self.num_envs * (-(-self.capacity // self.num_envs) + self._slack())  # prioritized: on one rank only
        return tree_bytes(slots) if self.prioritized else 0

    def _slack(self, epochs_for_ends: int = 1) -> int:
        """Records per lane that may be written after a checkpoint without overwriting what it needs.

        Every episode has a last frame beside its steps: one epoch more is enough for the newest checkpoint whatever
        episodes are like, and for those before if episodes last ``resumable_epochs`` env steps on average.
        """
        epochs = self.resumable_epochs + epochs_for_ends
        return epochs * (self.eval_every_n_frames // self.frames_per_step) + 1000

    def train_dataloader(self) -> Ticks:
        """One epoch: the ticks between two evaluations."""
        return Ticks(self.eval_every_n_frames // self.frames_per_tick)

    def val_dataloader(self) -> list[int]:
        """Indices of the evaluation episodes of this rank; equally many on all ranks, so some may not exist."""
        trainer = self.trainer
        assert trainer is not None
        turns = -(-self.num_eval_episodes // trainer.world_size)
        return list(range(trainer.global_rank, turns * trainer.world_size, trainer.world_size))

    @property
    def can_sample(self) -> bool:
        """Whether every rank has a transition to sample; to be asked by all ranks at the same point."""
        if self.world_size == 1:
            return self.replay.has_window
        if not self._all_can_sample:  # once it is true it stays so, and ranks need not ask each other again
            strategy = self.trainer.strategy  # type: ignore[union-attr]
            self._all_can_sample = strategy.reduce_boolean_decision(self.replay.has_window)
        return self._all_can_sample

    def finished_episodes(self, step: TensorDictBase) -> list[tuple[float, int]]:
        """Return ``(return, env steps)`` of the training episodes that ``step`` ended, on any rank, equal on all."""
        own = self.collector.finished_episodes(step)
        if self.world_size == 1:
            return own
        return all_finished(own, self.num_envs, self.trainer.strategy.root_device)  # type: ignore[union-attr]

    def evaluate(self, policy: Policy, episode: int, task: str | None = None) -> Episode:
        """Play evaluation episode number ``episode`` with a deterministic policy, on an env of its own.

        Args:
            policy: The agent without exploration.
            episode: Number of the episode; it decides the start.
            task: Task to play, or None for the current one, of which the filmed episode is kept.
        """
        seed = derive_seed(self.seed, f"eval/{episode}") % 2**32
        film = task is None and episode == self.keep_frames_of
        env, watched = self.eval_env(task or self.current_task), WatchedPolicy(policy)
        try:
            played = play_episode(env, watched, seed, keep_frames=film, observation=self.observation)
        except Exception as error:
            if watched.acting or (isinstance(error, UserError) and not self._played):  # as in the first step
                raise
            raise self._failure(error) from error
        self._played = True
        return played

    @property
    def _learner(self) -> Learner:
        """Who learns from what is collected here."""
        learner = self.trainer.lightning_module  # type: ignore[union-attr]
        if not isinstance(learner, Learner):
            raise UserError(f"RLDataModule collects for agents of plasticity_rl, not for a {type(learner).__name__}")
        return learner

    def _failure(self, error: Exception) -> Exception:
        """Return what to raise for an error of an environment; who trains with it says how to go on."""
        failed, trainer = f"an environment of {self.current_task} failed", self.trainer
        if trainer is None or trainer.state.fn != TrainerFn.FITTING:
            return RunFailure(f"{failed}: {describe_error(error)}")
        return self._learner.env_failure(f"{failed} ({describe_error(error)})")

    def teardown(self, stage: str) -> None:
        """Free the training env."""
        if stage == "fit" and hasattr(self, "collector"):
            self.collector.close(keep_state=True)  # for a checkpoint that a program saves afterwards

    def on_exception(self, exception: BaseException) -> None:
        """Free the training env too when a run fails or is stopped: Lightning then calls no ``teardown``."""
        if hasattr(self, "collector"):
            with contextlib.suppress(Exception):  # it may be what failed; the run's error is the one to report
                self.collector.close()

    # ---- checkpoints ------------------------------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        return {**self.environment.values, "num_envs": self.num_envs, "seed": self.seed}

    def refuse_other_identity(self, saved: dict[str, Any]) -> None:
        """Raise UserError when training would continue a checkpoint of another task, environment setting or seed."""
        mine = self._identity()
        for name, value in saved.items() if hasattr(self, "collector") else ():
            if value != mine.get(name):
                raise UserError(
                    f"the checkpoint was written with data.{name}={value}, but this run has {mine.get(name)}: "
                    "a resumed run must keep its task, environment settings and seed"
                )

    def _goes_on_empty(self, saved: dict[str, Any]) -> bool:
        """Whether a checkpoint's replay is gone and the run may go on without."""
        trainer = self.trainer
        assert trainer is not None
        gone = bool(saved["storage"]["written"].any()) and not holds_replay(self.replay_folder)
        return self.allow_empty_replay and trainer.strategy.reduce_boolean_decision(gone)

    def state_dict(self) -> dict[str, Any]:
        """Bring the replay's files up to date, then return cursors, simulator and open episode."""
        if not hasattr(self, "collector"):
            return {}
        self.replay.flush()
        return {
            "identity": self._identity(),
            "current_task": self.current_task,
            "collector": self.collector.state_dict(),
            "replay": self.replay.state_dict(),
        }

    def __getstate__(self) -> dict[str, Any]:
        """Return what makes a copy, or a pickle: the options. Environments, replay and Trainer stay with this one."""
        kept = {name: value for name, value in vars(self).items() if name not in OF_ONE_FIT}
        return {**kept, "trainer": None, "current_task": self.task, "_eval_envs": {}}

    @classmethod
    def load_from_checkpoint(cls, *args: Any, **kwargs: Any) -> Any:
        """Refuse: checkpoints hold the options of agents, not those of data modules."""
        raise UserError(
            f"{cls.__name__}.load_from_checkpoint: a data module is made from its options, {cls.__name__}(task, ...), "
            "as in the run's config.yaml; agents can be loaded so"
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue exactly where the checkpoint was taken; evaluating a checkpoint needs only its task."""
        if not hasattr(self, "collector"):
            task = state_dict.get("current_task", self.task)
            self.current_task = task if task in self._eval_envs else self.task  # others no callback of this run names
            return
        self.refuse_other_identity(state_dict["identity"])
        if (task := state_dict.get("current_task", self.task)) != self.current_task:
            if task not in self._eval_envs and names_code(task):  # a checkpoint may be somebody else's
                raise UserError(f"the checkpoint goes on with task={task}, which no callback of the run names")
            self.collector.close()
            self._collect(task, self.seed)  # what the seed decides is restored below
        if (slack := state_dict["replay"]["storage"]["layout"]["slack"]) == self._slack(0):
            del self.replay  # the run is from before last frames were counted, and keeps its files as they are
            gc.collect()  # a device may have memory for one replay
            self.replay = self._make_replay(slack)
        self.starts_empty = self._goes_on_empty(state_dict["replay"])
        self.replay.load_state_dict(state_dict["replay"], empty=self.starts_empty)
        if state_dict["collector"]["env"] is not None:
            self.collector.load_state_dict(state_dict["collector"])
        else:
            self._begin_new_episodes(state_dict["collector"])

    def _begin_new_episodes(self, saved: dict[str, Any]) -> None:
        """Cut the open episodes, as a time limit would; with a new seed, else those of the first start came again."""
        self.new_episodes = True
        if not self.starts_empty:  # as of StepCollector.observations: a step that was begun is not in the replay
            self.replay.cut_episodes((saved["begun"] or saved["carrier"])[self.observation])
        self.collector.close()
        rank, written = self.trainer.global_rank, int(self.replay.written.sum())  # type: ignore[union-attr]
        seed = derive_seed(self.seed, f"env/rank{rank}/resumed after {written}") % (2**32 - self.num_envs)
        self._collect(self.current_task, seed)

    @property
    def inexact(self) -> str:
        """What to say at a start about environments that cannot be saved, or an empty string."""
        return said_at_start(self.collector.not_exact, new_episodes=self.new_episodes)


def data_module_of(task: str) -> type[RLDataModule]:
    """Return RLDataModule with the options of a task's environment in its signature, as the command line needs it."""
    environment = options_class(task)
    return RLDataModule if environment is options_class(DEFAULT) else with_options_of(environment, RLDataModule)
