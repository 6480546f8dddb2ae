"""The LightningDataModule that owns the environment, the collector and the replay; one batch is one env step."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from tensordict import TensorDictBase
from torchrl.envs import EnvBase

from plasticity_rl.data.collector import Learner, Policy, StepCollector
from plasticity_rl.data.evaluation import Episode, WatchedPolicy, play_episode
from plasticity_rl.data.limits import refuse_bad_data_numbers, refuse_large_batch
from plasticity_rl.data.ticks import Ticks
from plasticity_rl.distributed.ranks import all_finished, refuse_different, times_ranks
from plasticity_rl.envs.make import Observation, make_env
from plasticity_rl.errors import RunFailure, UserError, describe_error
from plasticity_rl.machine.rendering import refuse_drawing_in_threads
from plasticity_rl.replay.buffer import FrameReplay, check_fits, replay_bytes
from plasticity_rl.replay.files import holds_replay
from plasticity_rl.rng import derive_seed


class RLDataModule(pl.LightningDataModule):
    """Environment, collector and replay of one rank.

    With several ranks (``trainer.devices``), frames, env steps, ``capacity`` and ``batch_size`` count all of them
    together; ``num_envs`` are those of each (docs/multi_gpu.md).

    Args:
        task: Task name, e.g. ``walker_run``, ``cup_catch``, ``reach_duplo``.
        observation: ``pixels``, or ``state``: the task's own observations as one float32 vector (positions, velocities
            ...), without rendering. The options of pictures then have no meaning: ``frame_stack``, ``image_size``,
            ``render``, ``camera_id``.
        action_repeat: Simulator frames per env step (agent decision).
        frame_stack: Frames per observation.
        image_size: Height and width of a frame in pixels.
        render: ``exact`` gives the published pixels; ``fast`` leaves out shadows, reflections and multisampling
            (several times faster in software, visibly different pixels).
        camera_id: Camera, or None for the published choice (quadruped 2, others 0).
        num_envs: Environments stepped side by side, on each rank; one tick is one env step of each.
        overlap: Step the environments in a thread beside the updates, and read the next batch in another. Actions are
            then chosen before the updates that they run beside (``clock/policy_lag_updates``); all else is as without.
        n_step: Steps of the n-step return.
        discount: Discount factor gamma per env step, in [0, 1].
        batch_size: Transitions per gradient update; each rank samples its share.
        capacity: Transitions the replay keeps.
        storage: ``ram``, or ``memmap`` for files in the run folder.
        max_frames: Env frames at which training stops.
        eval_every_n_frames: Env frames between evaluations; a multiple of ``action_repeat * num_envs * ranks``.
        num_eval_episodes: Episodes per evaluation.
        seed: Seed of environments and replay sampling; the command line links it to ``seed_everything``.
        replay_dir: Folder of the replay files that make a resume exact; None is ``replay/`` in the run folder
            (``trainer.default_root_dir``). They are written at checkpoints, or at once with ``storage="memmap"``.
        resumable_epochs: Epochs (``eval_every_n_frames``) back to which a checkpoint can still be resumed once the
            replay has been full; each costs that many more records of disk and, with ``ram``, of memory.
        allow_empty_replay: Resume a checkpoint whose replay files are gone, with an empty replay: not exact. The policy
            then collects ``num_seed_frames`` env frames without updates, as before the first one.
        env: Factory with the signature of ``plasticity_rl.make_env``, for environments of your own.

    Attributes:
        obs_shape: Shape of an observation: ``(3 * frame_stack, image_size, image_size)``, or ``(n,)`` of a state.
        action_dim: Number of action dimensions.
    """

    def __init__(
        self,
        task: str = "walker_run",
        *,
        observation: Observation = "pixels",
        action_repeat: int = 2,
        frame_stack: int = 3,
        image_size: int = 84,
        render: Literal["exact", "fast"] = "exact",
        camera_id: int | None = None,
        num_envs: int = 1,
        overlap: bool = False,
        n_step: int = 3,
        discount: float = 0.99,
        batch_size: int = 256,
        capacity: int = 1_000_000,
        storage: Literal["ram", "memmap"] = "ram",
        max_frames: int = 3_100_000,
        eval_every_n_frames: int = 10_000,
        num_eval_episodes: int = 10,
        seed: int = 0,
        replay_dir: str | None = None,
        resumable_epochs: int = 2,
        allow_empty_replay: bool = False,
        env: Callable[..., EnvBase] = make_env,
    ) -> None:
        super().__init__()
        self.task, self.action_repeat, self.frame_stack, self.image_size = task, action_repeat, frame_stack, image_size
        self.observation = observation
        self.render, self.camera_id, self.num_envs, self.env_factory = render, camera_id, num_envs, env
        self.overlap, self.n_step, self.discount, self.batch_size = overlap, n_step, discount, batch_size
        self.capacity, self.storage, self.replay_dir = capacity, storage, replay_dir
        self.max_frames, self.eval_every_n_frames = max_frames, eval_every_n_frames
        self.num_eval_episodes, self.seed = num_eval_episodes, seed
        self.resumable_epochs, self.allow_empty_replay = resumable_epochs, allow_empty_replay
        self.keep_frames_of: int | None = None
        self.world_size_of_checkpoint: int | None = None
        """Ranks of the run whose checkpoint is looked at with one process, or None for as many as there are."""
        self.starts_empty = False
        """Whether a checkpoint was resumed without its replay, so that there is nothing to learn from yet."""
        refuse_bad_data_numbers(self)
        self.refuse_uneven(1)
        self.current_task = task
        self._eval_envs: dict[str, EnvBase] = {}
        # One env is built here, before any training, so that a wrong task or a broken renderer is known at once.
        env_of_task = self.eval_env(task)
        self._refuse_long_returns(getattr(env_of_task, "episode_steps", None))
        self.obs_shape: tuple[int, ...] = tuple(env_of_task.observation_spec[observation].shape)
        self.action_dim: int = env_of_task.action_spec.shape[-1]
        refuse_large_batch(batch_size, self.observation_bytes, "data.batch_size")

    def refuse_uneven(self, world_size: int) -> None:
        """Raise UserError when ``world_size`` ranks cannot share a batch, or the frames between evaluations, evenly."""
        if missing := -self.batch_size % world_size:
            raise UserError(
                f"data.batch_size={self.batch_size} must be a multiple of the {world_size} ranks (trainer.devices * "
                f"trainer.num_nodes), each of which samples its share: use {self.batch_size + missing}"
            )
        tick = self.action_repeat * self.num_envs * world_size
        if self.eval_every_n_frames % tick:
            raise UserError(
                f"data.eval_every_n_frames={self.eval_every_n_frames} must be a multiple of "
                f"action_repeat * num_envs{times_ranks(world_size)} = {tick}"
            )

    def _refuse_long_returns(self, episode_steps: float | None) -> None:
        """Refuse n-step returns that no episode is long enough for; environments may not say how long theirs are."""
        if episode_steps is not None and self.n_step > episode_steps:
            raise UserError(
                f"data.n_step={self.n_step} does not fit in an episode of {self.task}, which has {episode_steps:.0f} "
                f"env steps (action_repeat={self.action_repeat}), so no update would ever happen: lower --data.n_step"
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
    def env_steps_per_tick(self) -> int:
        """Env steps of one step of every env of every rank."""
        return self.num_envs * self.world_size

    @property
    def frames_per_tick(self) -> int:
        """Env frames that one step of every env of every rank takes."""
        return self.action_repeat * self.env_steps_per_tick

    def eval_env(self, task: str) -> EnvBase:
        """Return the single env on which ``task`` is evaluated, built at the first call."""
        if task not in self._eval_envs:
            self._eval_envs[task] = self._make_env(task, seed=self.seed, num_envs=1)
        return self._eval_envs[task]

    def _make_env(self, task: str, *, seed: int, num_envs: int) -> EnvBase:
        return self.env_factory(
            task,
            seed=seed,
            observation=self.observation,
            action_repeat=self.action_repeat,
            frame_stack=self.frame_stack,
            image_size=self.image_size,
            render=self.render,
            camera_id=self.camera_id,
            num_envs=num_envs,
        )

    # ---- Lightning --------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Build training env, collector and replay when fitting; evaluation needs none of them."""
        if stage != "fit":
            return
        learner = self._learner
        self.starts_empty = False
        self.refuse_uneven(self.world_size)
        refuse_drawing_in_threads(self.overlap and self.observation == "pixels")
        self._all_can_sample = False
        run_dir, rank = self.trainer.default_root_dir, self.trainer.global_rank  # type: ignore[union-attr]
        refuse_different({"run folder": run_dir, "data.batch_size": self.batch_size, **self._identity()})
        folder = Path(self.replay_dir or Path(run_dir) / "replay")
        ranks_here = self.trainer.num_devices  # type: ignore[union-attr]
        check_fits(self.replay_size_bytes * ranks_here, self.storage, folder)
        self.replay_folder = folder / f"rank{rank}"
        self.replay = self._make_replay(self.replay_folder, derive_seed(self.seed, f"replay/rank{rank}"))
        self._policy: Policy = lambda observations: learner.act(observations, explore=True)
        self._collect(self.task, self._env_seed(rank))

    def _env_seed(self, rank: int) -> int:
        return derive_seed(self.seed, f"env/rank{rank}") % (2**32 - self.num_envs) if rank else self.seed

    def _collect(self, task: str, seed: int) -> None:
        build = lambda: self._make_env(task, seed=seed, num_envs=self.num_envs)  # noqa: E731
        self.collector = StepCollector(build, self._policy, self.observation, self._failure, self.overlap)
        self.current_task = task

    def switch_task(self, task: str, *, seed: int) -> None:
        """Go on collecting in ``task``, of equal shapes: open episodes are cut, the replay is kept.

        Args:
            task: Task name.
            seed: Seed of its fresh environments.
        """
        self.replay.cut_episodes(self.collector.observations())
        self.collector.close()
        self._collect(task, seed)

    def _make_replay(self, folder: Path, seed: int) -> FrameReplay:
        return FrameReplay(
            obs_shape=self.obs_shape,
            action_dim=self.action_dim,
            capacity=-(-self.capacity // self.world_size),
            frame_stack=self.stacked_frames,
            n_step=self.n_step,
            discount=self.discount,
            batch_size=self.batch_size // self.world_size,
            num_lanes=self.num_envs,
            storage=self.storage,
            folder=folder,
            slack=self._slack(),
            seed=seed,
            observation=self.observation,
        )

    @property
    def stacked_frames(self) -> int:
        """Frames in an observation: ``frame_stack`` images, or one state."""
        return self.frame_stack if self.observation == "pixels" else 1

    def _records_needed(self) -> int:
        """Transitions of this rank that ``max_frames`` can fill: a short run does not need the whole capacity."""
        return -(-min(self.capacity, -(-self.max_frames // self.action_repeat)) // self.world_size)

    @property
    def replay_size_bytes(self) -> int:
        """Bytes of the replay of one rank once it is full, or as full as the run can fill it."""
        records, observation = self._records_needed(), self.observation
        return replay_bytes(
            self.obs_shape, self.stacked_frames, self.action_dim, records, self.num_envs, observation=observation
        )

    def _slack(self) -> int:
        """Records per lane that may be written after a checkpoint without overwriting what it needs."""
        return self.resumable_epochs * (self.eval_every_n_frames // self.frames_per_tick) + 1000

    def train_dataloader(self) -> Ticks:
        """One epoch: the env steps between two evaluations."""
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
        env = self.eval_env(task or self.current_task)
        watched = WatchedPolicy(policy)
        try:
            return play_episode(env, watched, seed, keep_frames=film, observation=self.observation)
        except Exception as error:
            if watched.acting:
                raise
            raise self._failure(error) from error

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
            self.collector.close()

    # ---- checkpoints ------------------------------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        names = ("task", "observation", "action_repeat", "frame_stack", "image_size", "render", "camera_id")
        return {name: getattr(self, name) for name in (*names, "num_envs", "seed")}

    def refuse_other_identity(self, saved: dict[str, Any]) -> None:
        """Raise UserError when training would continue a checkpoint of another task, environment setting or seed."""
        for name, value in saved.items() if hasattr(self, "collector") else ():
            if value != getattr(self, name):
                raise UserError(
                    f"the checkpoint was written with data.{name}={value}, but this run has {getattr(self, name)}: "
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

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue exactly where the checkpoint was taken; evaluating a checkpoint needs none of it."""
        if not hasattr(self, "collector"):
            return
        self.refuse_other_identity(state_dict["identity"])
        if (task := state_dict.get("current_task", self.task)) != self.current_task:
            self.collector.close()
            self._collect(task, self.seed)  # what the seed decides is restored below
        self.starts_empty = self._goes_on_empty(state_dict["replay"])
        self.replay.load_state_dict(state_dict["replay"], empty=self.starts_empty)
        self.collector.load_state_dict(state_dict["collector"])
