"""Plasticity in visual reinforcement learning, as a Lightning module and callbacks.

The data path, one file a stage::

    envs -> collector -> replay -> augment -> networks -> losses -> agent   (data.py owns the first three)
                           |                     |           |
                   callbacks/interventions  callbacks/probes logging
"""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import version
from typing import Any

__version__ = version("plasticity-rl")

# Resolved on first use (PEP 562): importing the package, for `--help` or `--version`, must not import torch.
_EXPORTS = {
    "DrQV2": "plasticity_rl.agent",
    "Intervention": "plasticity_rl.callback",
    "Mutation": "plasticity_rl.callback",
    "Probe": "plasticity_rl.callback",
    "RLDataModule": "plasticity_rl.data",
    "RLModule": "plasticity_rl.rl_module",
    "Regularizer": "plasticity_rl.callback",
    "SAC": "plasticity_rl.sac",
    "ScheduledIntervention": "plasticity_rl.callback",
    "UpdateIntervention": "plasticity_rl.callback",
    "UserError": "plasticity_rl.errors",
    "make_env": "plasticity_rl.envs",
    "make_trainer": "plasticity_rl.trainer",
    "measures": "plasticity_rl.measures",
    "surgery": "plasticity_rl.surgery",
}
__all__ = ["__version__", *_EXPORTS]

if "mujoco" in sys.modules:  # a script that imported dm_control by itself would crash at `import lightning`
    importlib.import_module("plasticity_rl.rendering").load_triton()


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_EXPORTS[name])
    return module if _EXPORTS[name].endswith(f".{name}") else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
