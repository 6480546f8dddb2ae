"""Environments for worker processes, which import them by name: of global generators, and one that fails."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase
from tiny_env import TinyPixelEnv, make_tiny_env
from torchrl.envs import CatFrames, EnvBase, TransformedEnv


class _GloballyRandomEnv(TinyPixelEnv):
    """Its reward is drawn from the generators of the process; the seed decides the length of its episodes."""

    def __init__(self, *, seed: int, **options: Any) -> None:
        super().__init__(seed=seed, episode_steps=5 + seed % 3, **options)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        drawn = float(torch.rand(())) + random.random() + np.random.random()
        return super()._step(tensordict).set("reward", torch.tensor([drawn], dtype=torch.float32))


def make_globally_random_env(*, seed: int, num_envs: int = 1, **ignored: Any) -> EnvBase:
    """Return one of them with a frame stack."""
    assert num_envs == 1
    return TransformedEnv(_GloballyRandomEnv(seed=seed), CatFrames(2, dim=-3, in_keys=["pixels"]))


class _FailingEnv(TinyPixelEnv):
    """The tiny env; at its ``at_step``-th step, counted from when it was built, something happens."""

    def __init__(self, kind: str, at_step: int, **options: Any) -> None:
        super().__init__(**options)
        self.kind, self.at_step, self.steps = kind, at_step, 0

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        self.steps += 1
        if self.steps == self.at_step:
            fail(self.kind)
        return super()._step(tensordict)


def fail(kind: str) -> None:
    """Raise an error, end the process in some way, or do not return."""
    if kind == "error":
        raise OSError("the simulator is gone\n(and more lines about it)")
    if kind == "exit":
        os._exit(3)
    if kind == "hang":
        time.sleep(1000)
    os.kill(os.getpid(), getattr(signal, kind))


def make_failing_env(
    task: str = "tiny",
    *,
    seed: int,
    num_envs: int = 1,
    kind: str = "SIGKILL",
    at_step: int = 3,
    only: int = 1,
    **options: Any,
) -> EnvBase:
    """Return the tiny environment of which the one with the seed ``only`` fails."""
    if num_envs > 1 or seed != only:
        return make_tiny_env(task, seed=seed, num_envs=num_envs, **options)
    env = _FailingEnv(kind, at_step, task=task, seed=seed)
    return TransformedEnv(env, CatFrames(3, dim=-3, in_keys=["pixels"]))


def make_env_that_dies_in_a_worker(task: str = "tiny", *, seed: int, num_envs: int = 1, **options: Any) -> EnvBase:
    """Return the tiny environment; that of seed 2 is killed at its 75th step: in training of two, at frame 300."""
    return make_failing_env(task, seed=seed, num_envs=num_envs, at_step=75, only=2, **options)
