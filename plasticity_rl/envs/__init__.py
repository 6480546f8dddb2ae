"""Environments as TorchRL shows them: DeepMind Control, and snapshots from which they go on exactly.

May import machine and what is below; nothing of replay.
Start at ``make.py``; ``options.py`` says what a backend is, ``backends.py`` lists them.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["make_env", "task_names"]


def __getattr__(name: str) -> Any:  # options and lists of tasks are asked for before anything heavy is imported
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("plasticity_rl.envs.make"), name)
