"""What ``reset`` and ``step`` of a Gymnasium environment must return; told in a line where Python would fail on it."""

from __future__ import annotations

from typing import Any

import numpy as np

from plasticity_rl.errors import UserError, describe_error

RETURNED = {
    "reset": ("observation", "info"),
    "step": ("observation", "reward", "terminated", "truncated", "info"),
}
"""What a method returns."""
WRAPPERS = ("gymnasium.core", "gymnasium.wrappers")
"""Modules of Gymnasium that unpack what an environment below them returns."""


def call(env: Any, task: str, method: str, *args: Any, **options: Any) -> tuple[Any, ...]:
    """Call ``reset`` or ``step`` of an environment.

    Returns:
        As many values as there must be.

    Raises:
        UserError: For another number of values.
    """
    try:
        returned = getattr(env, method)(*args, **options)
    except (TypeError, ValueError) as error:
        if _is_of_a_wrapper(error) and "unpack" in str(error):  # a time limit meets the values before us
            raise _other_values(task, method, f"Gymnasium says: {error}") from error
        raise
    if not isinstance(returned, (tuple, list)):
        raise _other_values(task, method, f"returns a {type(returned).__name__}")
    if len(returned) != len(RETURNED[method]):
        raise _other_values(task, method, f"returns {len(returned)} values")
    return tuple(returned)


def _other_values(task: str, method: str, what: str) -> UserError:
    return UserError(f"task={task}: {method} must return ({', '.join(RETURNED[method])}), but {what}")


def _is_of_a_wrapper(error: BaseException) -> bool:
    """Whether a wrapper of Gymnasium raised an error, and not the environment."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and str(last.tb_frame.f_globals.get("__name__")).startswith(WRAPPERS)


def as_vector(space: Any, flatten: Any, task: str, observation: Any, size: int) -> np.ndarray:
    """Return an observation as one float32 vector.

    Args:
        space: What the environment declares.
        flatten: ``gymnasium.spaces.flatten``.
        task: Name of the task.
        observation: What was returned.
        size: Numbers of an observation of ``space``.

    Raises:
        UserError: For an observation that is none of ``space``.
    """
    try:
        vector = np.asarray(flatten(space, observation)).astype(np.float32).reshape(-1)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise _other_observation(task, space, f"but one is none: {describe_error(error)}") from error
    if vector.size != size:
        raise _other_observation(task, space, f"which is {size} numbers, but one is {vector.size}")
    return vector


def as_image(space: Any, task: str, observation: Any) -> np.ndarray:
    """Return an observation that is an image as it is.

    Raises:
        UserError: For one that is none of ``space``.
    """
    if not isinstance(observation, np.ndarray) or (observation.shape, observation.dtype) != (space.shape, space.dtype):
        shape = f"{getattr(observation, 'dtype', type(observation).__name__)} {getattr(observation, 'shape', '')}"
        raise _other_observation(task, space, f"but one is {shape.strip()}")
    return observation


def _other_observation(task: str, space: Any, what: str) -> UserError:
    return UserError(f"task={task}: reset and step must return an observation of observation_space, {space}, {what}")


def as_number(task: str, reward: Any) -> float:
    """Return a reward as a number.

    Raises:
        UserError: For what is none; an array of one number is one to some versions of NumPy only.
    """
    try:
        if not getattr(reward, "shape", ()):
            return float(reward)
    except (TypeError, ValueError):
        pass
    raise UserError(f"task={task}: step returns the reward {reward!r}; it must be one number, such as float(reward)")
