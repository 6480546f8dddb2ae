"""What ``model.cuda_graph`` means for callbacks, which declare it, and where it is refused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy

from plasticity_rl.agents.hooks import RLCallback, callbacks_of
from plasticity_rl.agents.steps import HOOKS, overrides
from plasticity_rl.augment.transforms import Augmentation
from plasticity_rl.errors import UserError
from plasticity_rl.nn.compiled import plain

STAYS, RECAPTURES, INSIDE, WATCHES, EAGER = "stays", "recaptures", "inside", "watches", "eager"
GRAPH_RULES = {
    STAYS: "acts before training, or between updates on values in place: graphs stay as they are",
    RECAPTURES: "also changes what an update consists of (layers that take part or learn, flags): captured again then",
    INSIDE: "adds to every update by tensors alone: captured with it",
    WATCHES: "looks into some updates: those are done without a graph",
    EAGER: "takes part in every update by Python: none is captured beside it",
}
"""What a callback may declare as ``cuda_graph``."""
TRAINING_HOOKS = (
    *("setup", "on_fit_start", "on_train_start", "on_train_epoch_start", "on_train_batch_start", "on_train_batch_end"),
    *HOOKS,
)
"""Lightning's hooks by which a callback may get at an update."""
KNOWN = ("lightning.", "lightning_fabric.", "pytorch_lightning.", "plasticity_rl.")
"""Packages whose plain Lightning callbacks do not touch updates, but through ``steps.HOOKS``."""


def rule_of(callback: pl.Callback) -> str:
    """Return one of ``GRAPH_RULES`` for a callback: what its own class declares.

    A class that declares nothing, a subclass of one that does included, is taken to be in every update; a plain
    callback of Lightning only where it has a hook by which it could be.
    """
    declared = vars(type(callback)).get("cuda_graph")
    if declared is not None:
        if declared not in GRAPH_RULES:
            raise UserError(
                f"{type(callback).__name__}.cuda_graph={declared!r} must be one of {list(GRAPH_RULES)}: what the "
                "callback means for a captured update"
            )
        return str(declared)
    if isinstance(callback, RLCallback):
        return EAGER
    known = type(callback).__module__.startswith(KNOWN) and not isinstance(callback, LambdaCallback)
    own = HOOKS if known else TRAINING_HOOKS
    return EAGER if overrides(callback, pl.Callback, own) else STAYS


def always_eager(callbacks: Iterable[pl.Callback]) -> list[str]:
    """Return the names of those beside which no update is captured."""
    return sorted(
        {type(one).__name__ for one in callbacks if rule_of(one) == EAGER or overrides(one, pl.Callback, HOOKS)}
    )


def inside(callbacks: Iterable[pl.Callback]) -> list[pl.Callback]:
    """Return those that are captured with an update."""
    return [one for one in callbacks if rule_of(one) == INSIDE]


def refuse_uncapturable(agent: Any) -> None:
    """Raise UserError where updates of an agent in a Trainer cannot be captured.

    Args:
        agent: An :class:`plasticity_rl.RLModule` with ``cuda_graph`` true, attached to a Trainer.
    """
    if reason := _why_uncapturable(agent):
        raise UserError(f"model.cuda_graph=true: {reason}; or leave it out (--model.cuda_graph false)")


def _why_uncapturable(agent: Any) -> str | None:
    trainer: Any = agent.trainer
    strategy, device = trainer.strategy, trainer.strategy.root_device.type
    if trainer.world_size > 1 or type(strategy) is not SingleDeviceStrategy:
        return (
            f"one process captures its updates by itself, and {type(strategy).__name__} with {trainer.world_size} "
            "processes averages gradients between them: use --trainer.devices 1"
        )
    if device not in ("cpu", "cuda"):
        return f"CUDA graphs are of NVIDIA's GPUs, and this run is on {device}: use --trainer.accelerator gpu"
    if type(trainer.precision_plugin) not in (Precision, MixedPrecision) or getattr(
        trainer.precision_plugin, "scaler", None
    ):
        return f"{type(trainer.precision_plugin).__name__} scales losses by Python: use 32-true or bf16-mixed"
    if type(trainer.profiler) is not PassThroughProfiler:
        return f"{type(trainer.profiler).__name__} times what a replay does not call: leave out --trainer.profiler"
    if getattr(agent, "_run", plain) is not plain:
        return "beside model.compile nobody has tried it: leave out --model.compile"
    stages = getattr(getattr(agent, "augmentations", None), "stages", ())
    if foreign := [type(stage).__name__ for stage in stages if not isinstance(stage, Augmentation)]:
        return (
            f"model.augmentations has {foreign[0]}, which draws its numbers on the CPU at every call: use those of "
            "plasticity_rl.augment that take whole batches (RandomShift, IntensityJitter, RandomConv)"
        )
    return None


def notes(agent: Any) -> list[str]:
    """Return what a user should know of ``cuda_graph`` at the start of a run, a line each."""
    found = []
    if agent.trainer.strategy.root_device.type == "cpu":
        found.append(
            "model.cuda_graph: there is no GPU here, so updates run on static tensors without a graph: no faster"
        )
    if names := always_eager(callbacks_of(agent.trainer)):
        found.append(f"model.cuda_graph: no update is captured beside {', '.join(names)}")
    return found
