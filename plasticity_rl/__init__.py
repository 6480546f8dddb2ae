"""Plasticity in visual reinforcement learning, as a Lightning module and callbacks.

The data path, one file a stage::

    envs -> collector -> replay -> augment -> networks -> losses -> agent   (data/ owns the first three)
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
    "DrQV2": "plasticity_rl.agents.drqv2.agent",
    "EvalVideo": "plasticity_rl.run.video",
    "Histograms": "plasticity_rl.run.histograms",
    "Intervention": "plasticity_rl.callback",
    "Mutation": "plasticity_rl.callback",
    "Probe": "plasticity_rl.callback",
    "RLDataModule": "plasticity_rl.data.module",
    "RLModule": "plasticity_rl.agents.base",
    "Regularizer": "plasticity_rl.callback",
    "SAC": "plasticity_rl.agents.sac.agent",
    "ScheduledIntervention": "plasticity_rl.callback",
    "UpdateIntervention": "plasticity_rl.callback",
    "UserError": "plasticity_rl.errors",
    "init_weights": "plasticity_rl.agents.initial_weights",
    "make_env": "plasticity_rl.envs",
    "make_trainer": "plasticity_rl.run.trainer",
    "measures": "plasticity_rl.measures",
    "surgery": "plasticity_rl.surgery",
}
__all__ = ["__version__", *_EXPORTS]

if "mujoco" in sys.modules:  # a script that imported dm_control by itself would crash at `import lightning`
    importlib.import_module("plasticity_rl.machine.rendering").load_triton()


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_EXPORTS[name])
    return module if _EXPORTS[name].endswith(f".{name}") else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
