"""What can go wrong in a run, as callbacks and environments that a test or a command line can name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from tiny_env import TinyPixelEnv
from torchrl.envs import CatFrames, EnvBase, TransformedEnv

from plasticity_rl.callback import RLCallback


class PoisonLoss(RLCallback):
    """Adds NaN to a loss.

    Args:
        loss: ``critic`` or ``actor``.
        frame: Env frame from which on.
    """

    def __init__(self, loss: str = "actor", frame: int = 130) -> None:
        self.loss, self.frame = loss, frame

    def on_fit_start(self, trainer, pl_module) -> None:
        weight = next(pl_module.module(self.loss).parameters())

        def term(batch: TensorDictBase) -> torch.Tensor:
            return weight.sum() * (float("nan") if pl_module.env_frames >= self.frame else 0.0)

        pl_module.add_loss_term(self.loss, "poison", term)


class PoisonWeights(RLCallback):
    """Sets one weight of the actor to infinity before the checkpoint after the evaluation at ``frame``."""

    def __init__(self, frame: int = 200) -> None:
        self.frame = frame

    def on_validation_end(self, trainer, pl_module) -> None:
        if pl_module.env_frames >= self.frame:
            with torch.no_grad():
                next(pl_module.actor.parameters()).view(-1)[0] = float("inf")


class FillDisk(RLCallback):
    """Fills the disk of a folder up at an env frame, but for some bytes.

    Args:
        folder: Where the filler goes.
        frame: Env frame from which on.
        leave: Bytes that stay free.
    """

    def __init__(self, folder: Path, frame: int, leave: int = 0) -> None:
        self.folder, self.frame, self.leave = folder, frame, leave

    def on_env_step(self, agent, step) -> None:
        filler = self.folder / "filler"
        if agent.env_frames >= self.frame and not filler.exists():
            free = os.statvfs(self.folder)
            filler.write_bytes(bytes(max(free.f_bavail * free.f_frsize - self.leave, 0)))


class _DyingEnv(TinyPixelEnv):
    """The tiny env whose simulator breaks in its 75th step: in training at frame 150."""

    steps = 0

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        self.steps += 1
        if self.steps >= 75:
            raise OSError("the simulator's process has died\n(and more lines about it)")
        return super()._step(tensordict)


def make_dying_env(task: str = "tiny", *, seed: int, frame_stack: int = 3, **options: Any) -> EnvBase:
    """Same signature as ``plasticity_rl.make_env``."""
    keep = {"action_repeat": options.get("action_repeat", 2), "size": options.get("image_size", 16)}
    base = _DyingEnv(task=task, seed=seed, **keep)
    return TransformedEnv(base, CatFrames(frame_stack, dim=-3, in_keys=["pixels"]))
