"""Backward passes and optimizer steps: directly, or through Lightning where somebody would miss what it adds to them.

Lightning calls eight hooks of every callback around the two backward passes and three steps of an update: as much time
as all the arithmetic of a small network. Where nobody listens, and nothing scales gradients or averages them over
ranks, the numbers are the same without.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from plasticity_rl.agents.hooks import callbacks_of
from plasticity_rl.distributed.strategy import average_gradients

HOOKS = ("on_before_backward", "on_after_backward", "on_before_optimizer_step")
"""Hooks of callbacks and agents that Lightning calls in ``manual_backward`` and in a step of its optimizers."""
OWN_HOOKS = ("backward", "manual_backward", "optimizers")
"""Further methods of an agent that it calls there, or that say what is stepped on."""


def overrides(one: Any, base: type, names: Iterable[str]) -> list[str]:
    """Return those of the methods ``names`` that ``one`` has otherwise than ``base``, by its class or set on itself."""
    found = {name: getattr(one, name) for name in names}
    return [name for name, own in found.items() if getattr(own, "__func__", own) is not getattr(base, name)]


def why_through_lightning(agent: pl.LightningModule) -> str | None:
    """Return what would be lost by steps that go past Lightning, or None: then those are the same, and faster.

    Args:
        agent: Attached to a Trainer.
    """
    trainer: Any = agent.trainer
    strategy, precision = trainer.strategy, trainer.precision_plugin
    if trainer.world_size > 1 or type(strategy) is not SingleDeviceStrategy:
        return f"{type(strategy).__name__} may average gradients over ranks"
    if type(precision) not in (Precision, MixedPrecision) or getattr(precision, "scaler", None) is not None:
        return f"{type(precision).__name__} may scale losses"
    if type(trainer.profiler) is not PassThroughProfiler:
        return f"{type(trainer.profiler).__name__} times them"
    for callback in callbacks_of(trainer):
        if hooks := overrides(callback, pl.Callback, HOOKS):
            return f"{type(callback).__name__} has {hooks[0]}"
    if hooks := overrides(agent, pl.LightningModule, [*HOOKS, *OWN_HOOKS]):
        return f"{type(agent).__name__} has {hooks[0]}"
    return None


class Steps:
    """Steps of an agent without a Trainer, on optimizers of its own.

    Args:
        optimizers: In the order of the agent's ``optimizer_names``.
    """

    def __init__(self, optimizers: Sequence[Any]) -> None:
        self.optimizers = optimizers
        self.taken = 0
        """How many steps of optimizers there were."""

    def backward(self, loss: Tensor, parameters: Sequence[nn.Parameter]) -> None:
        """Compute the gradients of ``loss`` for ``parameters``, and no others."""
        loss.backward(inputs=parameters)

    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> None:
        """Scale the gradients of all these parameters down so that their norm together is at most ``max_norm``."""
        nn.utils.clip_grad_norm_(parameters, max_norm)

    def step(self, optimizers: Sequence[Any]) -> None:
        """Let each of them take a step."""
        for optimizer in optimizers:
            optimizer.step()
        self.taken += len(optimizers)

    def count(self, steps: int) -> None:
        """Count so many steps as taken: a replayed update takes them by itself."""
        self.taken += steps


class DirectSteps(Steps):
    """The same in a Trainer, whose counters advance as if it had taken them.

    Checkpoints hold them, and Lightning's ModelCheckpoint saves nothing while they stand still.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        super().__init__(trainer.strategy.optimizers)
        self._progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress

    def step(self, optimizers: Sequence[Optimizer]) -> None:
        """Let each of them take a step, and count them."""
        for optimizer in optimizers:
            self._progress.increment_ready()
            optimizer.step()
            self._progress.increment_completed()
        self.taken += len(optimizers)

    def count(self, steps: int) -> None:
        """Count so many steps as taken, in Lightning too."""
        super().count(steps)
        for _ in range(steps):
            self._progress.increment_ready()
            self._progress.increment_completed()


class LightningSteps(Steps):
    """Steps through Lightning, with its hooks, scaling, profiling and averages."""

    def __init__(self, agent: pl.LightningModule, optimizers: Sequence[Any]) -> None:
        super().__init__(optimizers)
        self._agent = agent

    def backward(self, loss: Tensor, parameters: Sequence[nn.Parameter]) -> None:
        """Compute the gradients of ``loss`` for ``parameters``, and no others."""
        self._agent.manual_backward(loss, inputs=parameters)

    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> None:
        """Clip what is stepped on: the gradient of the whole batch, of which each rank has computed its share's."""
        if self._agent.trainer.world_size > 1:
            average_gradients(parameters)  # equal on all ranks from here on, they stay so in the step, which averages
        super().clip(parameters, max_norm)


def steps_of(agent: pl.LightningModule, optimizers: Sequence[Any]) -> Steps:
    """Return how an agent in a Trainer steps; to be asked once per fit, when its optimizers exist.

    Args:
        agent: Attached to a Trainer.
        optimizers: Lightning's, in the order of the agent's ``optimizer_names``.
    """
    return LightningSteps(agent, optimizers) if why_through_lightning(agent) else DirectSteps(agent.trainer)
