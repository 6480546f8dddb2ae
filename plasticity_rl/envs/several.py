"""Several environments of one task, each with a seed of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch

from plasticity_rl.envs.snapshots import workers
from plasticity_rl.machine.rendering import rendering_errors

with rendering_errors():
    from torchrl.envs import EnvBase, SerialEnv


class SeveralEnvs(SerialEnv):
    """Several environments of one task in this process, stepped one after the other.

    Attributes:
        task_name: name of the task.
        action_repeat: env frames per env step.

    Args:
        build: returns one environment for a ``seed``; called once more than there are seeds, to read the specs.
        seeds: one for each environment.
        task: name of the task.
        action_repeat: env frames per env step.
    """

    def __init__(self, build: Callable[..., EnvBase], seeds: list[int], task: str, action_repeat: int) -> None:
        super().__init__(len(seeds), build, create_env_kwargs=[{"seed": seed} for seed in seeds])
        self.task_name = task
        self.action_repeat = action_repeat

    def set_seed(self, seed: int | None = None, static_seed: bool = False) -> int | None:
        """Seed environment i with ``seed + i``, without a reset; ``static_seed`` gives all the same seed.

        Returns:
            The first seed not used yet, or None for None.
        """
        for i, env in enumerate(workers(self)):
            env.set_seed(None if seed is None else seed + (0 if static_seed else i))
        return None if seed is None else seed + (0 if static_seed else self.num_workers)

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close all environments, without the change of torch's thread count that TorchRL makes here."""
        threads = torch.get_num_threads()
        super().close(raise_if_closed=raise_if_closed)
        torch.set_num_threads(threads)
