"""Build DeepMind Control tasks as TorchRL environments: names, checks, frame stack, several at once, video frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch

from plasticity_rl.envs.dmc import DMCEnv, Render, tasks
from plasticity_rl.envs.snapshots import workers
from plasticity_rl.errors import UserError, suggestion
from plasticity_rl.machine.rendering import rendering_errors

with rendering_errors():
    from torchrl.envs import CatFrames, EnvBase, SerialEnv, TransformedEnv


Observation = Literal["pixels", "state"]
"""What an environment shows, and the key it is found under."""


def task_names() -> tuple[str, ...]:
    """Return all task names, sorted: ``walker_run``, ``cup_catch``, ``reach_duplo`` ..."""
    return tuple(sorted(tasks()))


def check_task(task: str) -> None:
    """Do nothing for a known task.

    Raises:
        UserError: for any other name, with the nearest known ones.
    """
    if task not in tasks():
        examples = "walker_run, cartpole_swingup, cup_catch"
        raise UserError(
            f"task={task!r} is not a DeepMind Control task.{suggestion(task, task_names())} "
            f"There are {len(task_names())}, such as {examples}; plasticity_rl.envs.task_names() lists them."
        )


def make_env(
    task: str,
    *,
    seed: int,
    action_repeat: int = 2,
    frame_stack: int = 3,
    image_size: int = 84,
    observation: Observation = "pixels",
    render: Render = "exact",
    camera_id: int | None = None,
    num_envs: int = 1,
) -> EnvBase:
    """Build a DeepMind Control task as a TorchRL environment.

    Keys:

    - ``pixels``: uint8 in [0, 255], shape (3 * frame_stack, image_size, image_size), the oldest frame first; after a
      reset the first frame fills the stack. Or ``state``: float32 (n,), dm_control's own observations, each flattened,
      joined in the order of its dictionary; of this moment only, not stacked.
    - ``action``: float32 in [-1, 1].
    - ``reward``: float32 (1,), the sum over the repeat.
    - ``discount``: float32 (1,), of the step that led here: 1, also at a time limit and after a reset; 0 at a true
      termination.
    - ``done``, ``terminated``, ``truncated``: bool (1,).

    ``env.set_seed(seed)`` replaces the generator of the task, touches no global one and resets nothing: what follows
    the next ``reset`` depends on the seed and the actions only. The base environment has ``task_name`` and
    ``action_repeat``.

    Args:
        task: one of :func:`task_names`.
        seed: seed of the task's own generator, 0 to 2**32 - 1. Environment i of several gets ``seed + i``.
        action_repeat: simulator steps per agent step, at least 1; the end of an episode cuts the last one short.
        frame_stack: number of images in ``pixels``, at least 1; not used for ``state``.
        image_size: height and width in pixels, at least 1.
        observation: ``"pixels"``, or ``"state"``: then nothing is drawn, and manipulation tasks are dm_control's
            ``features`` variant.
        render: ``"exact"`` draws what DrQ-v2 drew. ``"fast"`` leaves out shadows, reflections and anti-aliasing:
            about 5 times faster without a GPU, but other pixels, not to be compared with published results.
        camera_id: camera number, -1 for the free camera. None: 2 for quadruped, the close front camera for
            manipulation, 0 for all others.
        num_envs: environments stepped one after the other in this process, at least 1. More than 1 gives all keys a
            leading dimension ``num_envs``.

    Returns:
        A TransformedEnv (frame stack) over :class:`~plasticity_rl.envs.dmc.DMCEnv` for pixels, the bare DMCEnv for
        states; for several, a :class:`DMCSerialEnv` of them.

    Raises:
        UserError: for an unknown task, an option out of range, or when rendering does not start.
    """
    check_task(task)
    sizes = {"action_repeat": action_repeat, "frame_stack": frame_stack, "image_size": image_size, "num_envs": num_envs}
    for option, value in sizes.items():
        if value < 1:
            raise UserError(f"{option}={value} is not allowed: it must be 1 or more.")
    if not 0 <= seed <= 2**32 - num_envs:
        raise UserError(f"seed={seed} is not allowed: it must be from 0 to 2**32 - num_envs.")
    if observation not in ("pixels", "state"):
        raise UserError(f"observation={observation!r} is not allowed: it must be 'pixels' or 'state'.")
    if render not in ("exact", "fast"):
        raise UserError(f"render={render!r} is not allowed: it must be 'exact' or 'fast'.")

    def build(seed: int) -> EnvBase:
        size = image_size if observation == "pixels" else None
        env = DMCEnv(task, seed=seed, action_repeat=action_repeat, image_size=size, render=render, camera_id=camera_id)
        return TransformedEnv(env, CatFrames(frame_stack, dim=-3, in_keys=["pixels"])) if size is not None else env

    if num_envs == 1:
        return build(seed)
    return DMCSerialEnv(build, [seed + i for i in range(num_envs)], task, action_repeat)


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
    while not isinstance(env, DMCEnv):
        if isinstance(env, TransformedEnv):
            env = env.base_env
        elif isinstance(env, SerialEnv):
            env = workers(env)[index]
        else:
            raise UserError(f"{type(env).__name__} cannot draw frames; use an environment of make_env.")
    return env.render_rgb(height, width)


class DMCSerialEnv(SerialEnv):
    """Several :class:`DMCEnv` in this process, stepped one after the other.

    Attributes:
        task_name: name of the task.
        action_repeat: simulator steps per agent step.

    Args:
        build: returns one environment for a keyword ``seed``; called once more than there are seeds, to read the specs.
        seeds: one for each environment.
        task: name of the task.
        action_repeat: simulator steps per agent step.
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
