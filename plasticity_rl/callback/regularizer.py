"""The base of penalties that are added to a loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import lightning.pytorch as pl
from tensordict import TensorDictBase
from torch import Tensor

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.callback.intervention import Intervention
from plasticity_rl.errors import UserError, within


class Regularizer(Intervention):
    """Adds ``coefficient * penalty`` to one of the agent's losses; with coefficient 0 it adds nothing at all.

    Args:
        coefficient: Weight of the penalty, >= 0.
        modules: Modules by dotted name that the penalty looks at; None for the module of the values.
        loss: Loss that it is added to: ``critic`` (which also trains the encoder) or ``actor``; None for that of the
            values.

    Raises:
        UserError: When the coefficient is negative.
    """

    family = "regularizer"
    writes = frozenset({"loss"})
    published_modules: ClassVar[tuple[str, ...]] = ("critic",)

    def __init__(self, *, coefficient: float, modules: Sequence[str] | None, loss: str | None) -> None:
        within(f"{type(self).__name__}.coefficient", coefficient, "[0, inf]")
        self.coefficient, self.modules = coefficient, self.named_or_open(modules, self.published_modules)
        self._loss_is_open, self.loss = loss is None, loss or "critic"

    def open_arguments(self) -> frozenset[str]:
        """Return the names of the arguments that were left to the agent."""
        return super().open_arguments() | (frozenset({"loss"}) if self._loss_is_open else frozenset())

    def default_modules(self, agent: RLModule) -> list[str]:
        """Return the module of the values."""
        return [agent.value_module]

    def resolve(self, agent: RLModule) -> None:
        """Take the modules of this agent, and the loss of its values, where none were named."""
        super().resolve(agent)
        if self._loss_is_open:
            self.loss = agent.loss_that_trains(agent.value_module)

    def penalty(self, agent: RLModule, batch: TensorDictBase) -> Tensor:
        """Return the unweighted penalty, a scalar with gradient; for ``batch`` see :meth:`RLModule.add_loss_term`."""
        raise NotImplementedError

    def tags(self) -> frozenset[str]:
        """Return the tag of the term."""
        return frozenset([f"intervention/{self.name}/{'+'.join(self.modules)}/loss"] if self.coefficient > 0 else [])

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse wrong names before anything is trained."""
        super().setup(trainer, pl_module, stage)
        for name in self.modules:
            as_agent(pl_module).module(name)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the term to the loss; not in ``setup``, after which the agent forgets the terms of earlier runs."""
        agent = as_agent(pl_module)
        if self.coefficient > 0:
            self._refuse_untrained(agent)
            tag = f"intervention/{self.name}/{'+'.join(self.modules)}"
            agent.add_loss_term(self.loss, tag, lambda batch: self.coefficient * self.penalty(agent, batch))

    def _refuse_untrained(self, agent: RLModule) -> None:
        optimizers = [agent.optimizer_by_name(name) for name in agent.loss_optimizers.get(self.loss, ())]
        parameters = [p for o in optimizers for group in o.param_groups for p in group["params"]]
        frozen_from_the_start = agent.num_updates == 0  # later, an injection may have frozen a head that did learn
        trained = {id(p) for p in parameters if p.requires_grad or not frozen_from_the_start}
        for name in self.modules:
            if optimizers and not any(id(p) in trained for p in agent.module(name).parameters()):
                raise UserError(
                    f"{type(self).__name__}: the {self.loss} loss does not train {name!r}, so the penalty would do "
                    f"nothing; choose another of the losses {list(agent.loss_optimizers)}"
                )
