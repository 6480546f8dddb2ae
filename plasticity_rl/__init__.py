"""Plasticity in visual reinforcement learning, as a Lightning module and callbacks.

The data path, one file a stage::

    envs -> collector -> replay -> augment -> networks -> losses -> agent   (data/ owns the first three)
                           |                     |           |
                   callbacks/interventions  callbacks/probes logging
"""

from __future__ import annotations

import importlib
import os
import sys

# `python -m plasticity_rl` would look for all that follows in the current folder first: of a run that somebody sent,
# that would be theirs. While Python looks for this package, that is the name of the program.
if (
    sys.argv[:1] == ["-m"]
    and sys.path[:1] == [os.getcwd()]
    and sys.path[0] != os.path.dirname(os.path.dirname(__file__))
):
    del sys.path[0]

from typing import Any

__version__: str  # read on first use, as all below

# Resolved on first use (PEP 562): importing the package, for `--help` or `--version`, must not import torch.
_EXPORTS = {
    "DQN": "plasticity_rl.agents.dqn.agent",
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

sys.meta_path.insert(0, importlib.import_module("plasticity_rl.machine.compromised").Guard())

importlib.import_module("plasticity_rl.machine.mjx").answer_for_mjx()

if "mujoco" in sys.modules:  # a script that imported dm_control by itself would crash at `import lightning`
    importlib.import_module("plasticity_rl.machine.rendering").load_triton()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("plasticity-rl")
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_EXPORTS[name])
    return module if _EXPORTS[name].endswith(f".{name}") else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
