"""An empty Lightning loop over a TorchRL environment: what any framework of these two costs before it does anything."""

from __future__ import annotations

import lightning.pytorch as pl
import torch

from benchmarks.blank_env import ACTION_DIM, make_env
from benchmarks.child import Gate
from plasticity_rl.heap import keep_freed_memory
from plasticity_rl.ticks import Ticks

WARM_UP_STEPS = 500


class EmptyLoop(pl.LightningModule):
    """Steps the environment with a constant action, and does nothing else.

    Args:
        image_size: Pixels of the blank environment.
        replay_ratio: Updates that would be due per env step.
    """

    def __init__(self, image_size: int, replay_ratio: float) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.env = make_env(image_size=image_size)
        self.carrier = self.env.reset()
        self.action = torch.zeros(ACTION_DIM)
        self.gate = Gate()
        self.replay_ratio = replay_ratio
        self.warm_up, self.num_steps = WARM_UP_STEPS, 0

    def training_step(self, tick: int, batch_idx: int = 0) -> None:
        """Step the environment once."""
        if self.warm_up == 1:
            self.gate.open()
        self.warm_up = max(self.warm_up - 1, 0)
        if self.gate.begins:
            self.num_steps = 0
        _, self.carrier = self.env.step_and_maybe_reset(self.carrier.set("action", self.action))
        self.num_steps += 1
        self.gate.tick(num_updates=int(self.num_steps * self.replay_ratio))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimizer that is never used: without any, Lightning leaves out part of its loop."""
        return torch.optim.SGD(self.parameters(), lr=0.0)


def training(image_size: int, replay_ratio: float, threads: int) -> None:
    """Contestant: an environment step per training step; nobody acts, remembers, updates or logs."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    off = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "use_distributed_sampler"),
        False,
    )
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", num_sanity_val_steps=0, **off)
    trainer.fit(EmptyLoop(image_size, replay_ratio), Ticks(10**9))
