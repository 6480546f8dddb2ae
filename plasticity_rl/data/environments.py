"""The environments of a data module: to evaluate on, in this process, and to train on, here or in worker processes."""

from __future__ import annotations

import functools
from collections.abc import Callable

from torchrl.envs import EnvBase

from plasticity_rl.data.options import DataOptions
from plasticity_rl.envs.options import EnvironmentOptions, Observation
from plasticity_rl.envs.side_by_side import EnvsSideBySide
from plasticity_rl.machine.health import available_cores
from plasticity_rl.machine.rendering import refuse_drawing_in_threads


class Environments(DataOptions):
    """Builds environments as the options say.

    Attributes:
        environment: The options of the environment, as one object.
        current_task: The task that is trained on now.
    """

    environment: EnvironmentOptions
    current_task: str
    _eval_envs: dict[str, EnvBase]

    @property
    def task(self) -> str:
        """Name of the task that the run began with."""
        return self.environment.task

    @property
    def observation(self) -> Observation:
        """What an observation is, and its key: ``pixels`` or ``state``."""
        return self.environment.observation

    @property
    def action_repeat(self) -> int:
        """Env frames per env step."""
        return self.environment.action_repeat

    @property
    def stacked_frames(self) -> int:
        """Frames in an observation."""
        return self.environment.stacked_frames

    def eval_env(self, task: str) -> EnvBase:
        """Return the single env on which ``task`` is evaluated, built in this process at the first call."""
        if task not in self._eval_envs:
            self._eval_envs[task] = self._make_env(task, seed=self.seed, num_envs=1)
        return self._eval_envs[task]

    def _make_env(self, task: str, *, seed: int, num_envs: int) -> EnvBase:
        return self._factory(task)(seed=seed, num_envs=num_envs)

    def _factory(self, task: str) -> Callable[..., EnvBase]:
        return functools.partial(self.env, **{**self.environment.values, "task": task})

    def _make_training_env(self, task: str, seed: int) -> EnvBase:
        """Return the environments to collect in, of which number i has the seed ``seed + i``."""
        if not self.env_workers:
            return self._make_env(task, seed=seed, num_envs=self.num_envs)
        build = functools.partial(self._factory(task), num_envs=1)
        seeds = [seed + i for i in range(self.num_envs)]
        return EnvsSideBySide(build, seeds, self.env_workers, self.eval_env(task))

    @property
    def _in_thread(self) -> bool:
        """Whether a thread has to step the environments beside the updates; worker processes do it by themselves."""
        return self.overlap and not self.env_workers

    def _refuse_drawing_in_threads(self) -> None:
        refuse_drawing_in_threads(self._in_thread and self.environment.draws)

    def crowded(self, ranks_here: int) -> str:
        """Return what to say at a start about more worker processes than cores, or an empty string.

        Args:
            ranks_here: Ranks on this machine, each with workers of its own.
        """
        workers, cores = self.env_workers * ranks_here, available_cores()
        if workers <= cores:
            return ""
        return (
            f"data.env_workers={self.env_workers}{f' on each of {ranks_here} ranks' * (ranks_here > 1)}: more than the "
            f"{cores} cores that there are, so that these processes wait for each other"
        )
