"""Which environments Gymnasium has, asked without torch: it imports in half a second."""

from __future__ import annotations

import importlib
import importlib.metadata

from plasticity_rl.envs.extras import GYMNASIUM
from plasticity_rl.errors import UserError, describe_error
from plasticity_rl.files.own_files import where_they_are_looked_for

PREFIX = "gym:"
PLUGINS = "gymnasium.envs"
"""Entry points of packages that register environments, which Gymnasium loads when it is imported."""


def has_plugins() -> bool:
    """Return whether to import Gymnasium is to import packages that nobody knows here."""
    return bool(importlib.metadata.entry_points(group=PLUGINS))


def require_registered(task: str) -> None:
    """Do nothing for the id of an environment that Gymnasium knows.

    Raises:
        UserError: For any other, with what Gymnasium says and suggests; or when it is not installed.
    """
    gym, (module, _, name) = GYMNASIUM.load(f"task={task}"), task.removeprefix(PREFIX).rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        gym.spec(name)
    except Exception as error:  # also what the module raises
        missing = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
        where = f".{where_they_are_looked_for(module)}" if missing else ""
        raise UserError(
            f"task={task!r} is no environment of Gymnasium ({describe_error(error)}); write gym:<id>, such as "
            f"gym:Pendulum-v1, or gym:<module>:<id> for one that a module registers{where}"
        ) from error
