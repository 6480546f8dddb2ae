"""Environments as TorchRL shows them: DeepMind Control, and snapshots from which they go on exactly.

May import machine and what is below; nothing of replay.
Start at ``make.py``; ``options.py`` says what a backend is, ``backends.py`` lists them.
"""

from plasticity_rl.envs.make import make_env, task_names

__all__ = ["make_env", "task_names"]
