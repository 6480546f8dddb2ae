"""Stops a run whose losses or weights are no longer numbers, before a good checkpoint is overwritten."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from tensordict import TensorDictBase
from torch import Tensor

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.agents.hooks import RLCallback
from plasticity_rl.errors import RunFailure

NEVER = 2**62
"""Stands for the env frame of what has not happened."""


class DetectNaN(RLCallback):
    """Part of every run unless ``detect_nan`` is false: ends it when a loss or a weight is NaN or infinite.

    The frame in which each loss was first not finite is kept on the agent's device and read when metrics are logged,
    before evaluations and at checkpoints, so that no update waits for a GPU (on a CPU it is read after every step).
    A checkpoint with a weight or optimizer state that is not finite is not written.

    Mutates: nothing.
    """

    cuda_graph = "stays"

    def __init__(self) -> None:
        self._losses: tuple[str, ...] = ()
        self._first_frame: Tensor | None = None

    def on_update_end(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> None:
        """Note on the device which losses are not finite."""
        found = {tag: value for tag, value in metrics.items() if "loss" in tag.split("/")}
        if not found:
            return
        values = torch.stack(list(found.values()))
        if tuple(found) != self._losses or self._first_frame is None:
            self.look(agent)
            self._losses, self._first_frame = tuple(found), torch.full_like(values, NEVER, dtype=torch.int64)
        frame = torch.where(torch.isfinite(values), NEVER, agent.env_frames)
        self._first_frame = torch.minimum(self._first_frame, frame)

    def look(self, agent: RLModule) -> None:
        """Read what was noted.

        Raises:
            RunFailure: When a loss was not finite; names it, the frame, the modules, and the last good checkpoint.
        """
        if self._first_frame is None:
            return
        frames = self._first_frame.tolist()
        first = min(frames)
        if first < NEVER:
            loss, *others = [tag for tag, frame in zip(self._losses, frames, strict=True) if frame == first]
            beside = f" (and {', '.join(others)})" if others else ""
            modules = sorted({name.partition(".")[0] for name in not_finite(dict(agent.named_parameters()))})
            spread = f", by now also weights of {', '.join(modules)}" if modules else ""
            raise RunFailure(_message(agent, f"{loss} became NaN or infinite at env frame {first}{beside}{spread}"))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Look after every tick on a CPU, else every ``trainer.log_every_n_steps`` steps."""
        agent = as_agent(pl_module)
        if agent.device.type == "cpu" or agent.every_in_tick(trainer.log_every_n_steps):  # type: ignore[attr-defined]
            self.look(agent)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look before an evaluation: a policy that is not a number can make a simulator fail."""
        self.look(as_agent(pl_module))

    def on_env_failure(self, agent: RLModule, failure: str) -> None:
        """Look whether that was the policy's doing."""
        self.look(agent)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to write what is not finite."""
        agent = as_agent(pl_module)
        self.look(agent)
        bad = not_finite(dict(agent.named_parameters()))
        for name, optimizer in zip(agent.optimizer_names, trainer.optimizers, strict=False):
            states = {f"{key} of {i}": v for i, s in enumerate(optimizer.state.values()) for key, v in s.items()}
            bad += [f"the optimizer of {name}"] if not_finite(states) else []
        if bad:
            more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
            raise RunFailure(_message(agent, f"NaN or infinity in {', '.join(bad[:3])}{more}"))


def not_finite(tensors: Mapping[str, Any]) -> list[str]:
    """Return the names of the floating-point tensors that hold a NaN or an infinity."""
    floats = {n: t for n, t in tensors.items() if isinstance(t, Tensor) and t.is_floating_point()}
    return [name for name, tensor in floats.items() if not bool(torch.isfinite(tensor).all())]


def _message(agent: RLModule, found: str) -> str:
    where = agent.where_it_stands()
    return (
        f"{found}. The run was stopped {where}, with a smaller --model.lr for example (--detect_nan false never stops)"
    )
