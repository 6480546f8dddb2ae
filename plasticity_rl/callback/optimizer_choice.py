"""The base of interventions that let another optimizer step on modules."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import ClassVar

import lightning.pytorch as pl
from torch.optim import Optimizer

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.callback.intervention import Intervention
from plasticity_rl.errors import UserError
from plasticity_rl.optim.parts import part_that_steps_on


class OptimizerChoice(Intervention):
    """Replaces the optimizer of modules from the first update on; each module has one of its own.

    It acts from the start by nature, so no arguments make it do nothing.

    What edits optimizer state edits this one's too: its slots of a parameter are tensors that start at zero. Other
    parameters of an optimizer, also the modules that callbacks bring along, are stepped on as before.

    Args:
        modules: Modules by dotted name, none within another; None for all networks of the agent.

    Raises:
        UserError: When one of them is named twice, or lies within another.
    """

    family = "optimizer"
    writes = frozenset({"steps"})
    kind: ClassVar[type[Optimizer]]
    """The optimizer that it makes."""

    def __init__(self, *, modules: Sequence[str] | None) -> None:
        self.modules = self.named_or_open(modules, ("encoder", "actor", "critic"))
        for index, name in enumerate(self.modules):
            for other in self.modules[index + 1 :]:
                if f"{other}.".startswith(f"{name}.") or f"{name}.".startswith(f"{other}."):
                    raise UserError(
                        f"{type(self).__name__}.modules={self.modules}: {name!r} and {other!r} share parameters; "
                        "name each once"
                    )

    def make(self, agent: RLModule, own: Optimizer) -> Optimizer:
        """Return the optimizer, for the parameters of ``own``, the agent's for one module."""
        raise NotImplementedError

    def claims(self, agent: RLModule) -> frozenset[str]:
        """Return the parameters that it steps on."""
        try:
            names = agent.parameter_names(agent.module(name) for name in self.modules)
        except UserError:  # it names what a third will build: refused in ``build`` where two of them choose
            return frozenset()
        return frozenset(f"choose the optimizer of {name}" for name in names)

    def build(self, agent: RLModule) -> None:
        """Tell the agent, before its optimizers exist."""
        for name in self.modules:
            agent.choose_optimizer(name, functools.partial(self.make, agent))

    def moves_weights(self, agent: RLModule) -> bool:
        """Return that weights change by steps only."""
        return False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse modules that nothing steps on, and agents that do not let their optimizers be replaced."""
        agent = as_agent(pl_module)
        for name in self.modules:
            held = [p for p in agent.module(name).parameters() if agent.optimizer_of(p) is not None]
            if not held:
                raise UserError(f"{type(self).__name__}.modules: no optimizer steps on {name!r}; leave it out")
            if self.of_module(agent, name) is None:
                raise UserError(
                    f"{type(self).__name__} cannot replace the optimizers of {type(agent).__name__}: its "
                    "configure_optimizers must return self.with_choices([...]) of them"
                )

    def of_module(self, agent: RLModule, name: str) -> Optimizer | None:
        """Return the optimizer that it made for a module, or None before optimizers exist."""
        for parameter in agent.module(name).parameters():
            optimizer = agent.optimizer_of(parameter)
            found = None if optimizer is None else part_that_steps_on(optimizer, parameter, self.kind)
            if found is not None:
                return found
        return None
