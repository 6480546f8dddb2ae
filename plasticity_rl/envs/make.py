"""Build environments of any backend by name, and draw what they show."""

from __future__ import annotations

from typing import Any

import numpy as np

from plasticity_rl.envs.backends import all_options_classes, options_class
from plasticity_rl.envs.snapshots import workers
from plasticity_rl.errors import UserError
from plasticity_rl.machine.rendering import rendering_errors

with rendering_errors():
    from torchrl.envs import EnvBase, SerialEnv, TransformedEnv


def task_names() -> tuple[str, ...]:
    """Return the task names of all backends, sorted: ``walker_run``, ``cup_catch``, ``reach_duplo`` ..."""
    return tuple(sorted(name for options in all_options_classes() for name in options.task_names()))


def check_task(task: str) -> None:
    """Do nothing for a known task.

    Raises:
        UserError: for any other name, with the nearest known ones.
    """
    options_class(task).check_task(task)


def make_env(task: str, *, seed: int, num_envs: int = 1, **options: Any) -> EnvBase:
    """Build a task as a TorchRL environment.

    Args:
        task: one of :func:`task_names`.
        seed: seed of the task's own generator, 0 to 2**32 - 1. Environment i of several gets ``seed + i``.
        num_envs: environments stepped one after the other in this process, at least 1. More than 1 gives all keys a
            leading dimension ``num_envs``.
        options: those of the task's backend, which documents them and what the environment shows:
            :class:`~plasticity_rl.envs.dmc_options.DMControlOptions` of DeepMind Control.

    Raises:
        UserError: for an unknown task or option, one out of range, or when rendering does not start.
    """
    return options_class(task).of(task, **options).make(seed=seed, num_envs=num_envs)


def render_frame(env: EnvBase, height: int = 256, width: int = 256, *, index: int = 0) -> np.ndarray:
    """Draw what environment ``index`` shows now, at any size, with the env's camera and drawing quality.

    The first call for a size above ``image_size`` makes a larger frame buffer, which stays. Observations do not change.

    Args:
        env: what :func:`make_env` returned, possibly with more TransformedEnv layers, after its first reset.
        height: pixels.
        width: pixels.
        index: which of ``num_envs`` environments.

    Returns:
        RGB image, uint8, (height, width, 3).

    Raises:
        UserError: for an environment of another kind, or when rendering does not start.
    """
    while isinstance(env, TransformedEnv | SerialEnv):  # they forward unknown attributes to what they wrap
        env = env.base_env if isinstance(env, TransformedEnv) else workers(env)[index]
    if not hasattr(env, "render_rgb"):
        raise UserError(f"{type(env).__name__} cannot draw frames; use an environment of make_env.")
    return env.render_rgb(height, width)
