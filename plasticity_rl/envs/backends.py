"""Which environments there are: a name for each backend, and where its options are."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator

from plasticity_rl.envs.options import EnvironmentOptions

DEFAULT = "dmc"
BACKENDS = {
    DEFAULT: "plasticity_rl.envs.dmc_options.DMControlOptions",
    "atari": "plasticity_rl.envs.atari_options.AtariOptions",
    "minatar": "plasticity_rl.envs.minatar_options.MinAtarOptions",
    "gym": "plasticity_rl.envs.gym_options.GymOptions",
    "torchrl": "plasticity_rl.envs.torchrl_options.TorchRLOptions",
}
"""What stands before the colon of a task's name (``atari:pong``; nothing for the default) -> class of its options.

A class is imported when a task of it is asked for; it imports its simulator when an environment is built.
"""


OF_A_MODULE = re.compile(r"(torchrl:.*|gym:[^:]*:.*)", re.DOTALL)
"""Names of tasks that import a module: of a class, or one that registers environments."""


def options_class(task: str) -> type[EnvironmentOptions]:
    """Return the options that a task has. Names that no backend claims are the default's, who knows its tasks."""
    prefix, colon, _ = task.partition(":")
    return _load(prefix if colon and prefix in BACKENDS else DEFAULT)


def names_code(task: str) -> bool:
    """Return whether a module is imported because the name of a task has its name in it."""
    return OF_A_MODULE.fullmatch(task.strip()) is not None


def all_options_classes() -> Iterator[type[EnvironmentOptions]]:
    """Yield the options of every backend."""
    return map(_load, BACKENDS)


def _load(name: str) -> type[EnvironmentOptions]:
    module, _, cls = BACKENDS[name].rpartition(".")
    return getattr(importlib.import_module(module), cls)
