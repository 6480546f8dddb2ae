"""A Lightning loop over a TorchRL environment: what any framework of these two costs before it does anything."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from tensordict import TensorDictBase
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, ReplayBuffer

from benchmarks.contestants.blank_env import ACTION_DIM, make_env
from benchmarks.harness.child import Gate
from plasticity_rl.data.ticks import Ticks
from plasticity_rl.machine.malloc import keep_freed_memory

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
        self.weights = torch.nn.ParameterList(torch.zeros(1) for _ in range(3))
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
        self.step()
        self.num_steps += 1
        self.gate.tick(num_updates=int(self.num_steps * self.replay_ratio))

    def step(self) -> None:
        """Step the environment, and do nothing else."""
        _, self.carrier = self.env.step_and_maybe_reset(self.act(self.carrier))

    def act(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Add the constant action."""
        return tensordict.set("action", self.action)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """As many as DrQ-v2 has: without any, Lightning leaves out part of its loop."""
        return [torch.optim.SGD([weight], lr=0.0) for weight in self.weights]


class StockLoop(EmptyLoop):
    """Collects, remembers, samples and steps optimizers by nothing but the two libraries, with no network to compute.

    A batch has 8 transitions. An update is two backward passes and three optimizer steps through Lightning, as in
    DrQ-v2, on a number each; no callback listens.
    """

    def __init__(self, image_size: int, replay_ratio: float) -> None:
        super().__init__(image_size, replay_ratio)
        lean = {"track_traj_ids": False, "auto_register_policy_transforms": False, "use_buffers": False}
        self.steps = iter(
            Collector(self.env, self.act, frames_per_batch=1, total_frames=-1, trust_policy=True, **lean)  # type: ignore[arg-type]
        )
        self.replay = ReplayBuffer(storage=LazyTensorStorage(20_000), batch_size=8)

    def step(self) -> None:
        """Step the environment, and update when it is due."""
        self.replay.extend(next(self.steps))
        if (self.num_steps + 1) * self.replay_ratio % 1 == 0:
            self.replay.sample()
            first, second, third = self.optimizers()  # type: ignore[misc]
            self.manual_backward(self.weights[0] + self.weights[1])
            first.step()
            second.step()
            self.manual_backward(self.weights[2])
            third.step()


def training(image_size: int, replay_ratio: float, threads: int, stock: bool = False) -> None:
    """Contestant: an environment step per training step; nobody acts, updates a network or logs.

    Args:
        image_size: Pixels of the blank environment.
        replay_ratio: Updates that would be due per env step.
        threads: Threads of torch.
        stock: Whether to collect, remember, sample and step optimizers as well, by the libraries' own parts.
    """
    keep_freed_memory()
    torch.set_num_threads(threads)
    off = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "use_distributed_sampler"),
        False,
    )
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", num_sanity_val_steps=0, **off)
    trainer.fit((StockLoop if stock else EmptyLoop)(image_size, replay_ratio), Ticks(10**9))
