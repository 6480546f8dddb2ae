"""Base of the interventions that look for dormant units every so many updates and do something to them."""

from __future__ import annotations

from collections.abc import Sequence

import lightning.pytorch as pl
from torch import Tensor

from plasticity_rl.callback import Mutation, UpdateIntervention, as_agent
from plasticity_rl.errors import UserError
from plasticity_rl.rl_module import RLModule
from plasticity_rl.surgery import clear_elements, unit_columns, unit_rows, zero_columns
from plasticity_rl.units import UnitLayer, dormant, unit_activity


class DormantUnitIntervention(UpdateIntervention):
    """Finds the dormant units of modules on a batch of the replay, not augmented and drawn apart from the run's own.

    Args:
        modules: Modules by dotted name; only hidden ReLU units count, outputs and trunks (tanh) have none.
        tau: A unit is dormant when its mean absolute output is at most ``tau`` times the mean of its layer.
        every_n_updates: Period in gradient updates.
        batch_size: Observations that the activity is averaged over.

    Raises:
        UserError: When ``tau`` is not in [0, 1) or ``batch_size`` is not positive.
    """

    family = "surgery"

    def __init__(self, *, modules: Sequence[str], tau: float, every_n_updates: int, batch_size: int) -> None:
        super().__init__(every_n_updates=every_n_updates)
        if not 0 <= tau < 1:
            raise UserError(f"{type(self).__name__}.tau={tau} must be in [0, 1): at 1 an average unit is dormant")
        if batch_size < 1:
            raise UserError(f"{type(self).__name__}.batch_size={batch_size} must be a whole number >= 1")
        self.modules, self.tau, self.batch_size = list(modules), tau, batch_size

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse wrong names, and modules without hidden units, before anything is trained."""
        super().setup(trainer, pl_module, stage)
        for name in self.modules:
            if not as_agent(pl_module).units(name):
                raise UserError(f"{type(self).__name__}.modules: {name!r} has no hidden ReLU units")

    def mutates(self, agent: RLModule) -> Mutation:
        """What makes and reads the units, in the target as well; the optimizer slots of what is trained."""
        owned: list[Tensor] = []
        for layer in self.layers(agent):
            owned += [p for maker in (*layer.makers, *layer.twins) for p in maker.parameters()]
            owned += [reader.weight for reader in layer.readers]
        ids = {id(p): p.requires_grad for p in owned}
        names = {name: ids[id(p)] for name, p in agent.named_parameters() if id(p) in ids}
        return Mutation(parameters=frozenset(names), optimizer_slots=frozenset(n for n, own in names.items() if own))

    def layers(self, agent: RLModule) -> list[UnitLayer]:
        """Return the unit layers of all modules, each once."""
        return list({layer.name: layer for name in self.modules for layer in agent.units(name)}.values())

    def find_dormant(self, agent: RLModule) -> dict[str, dict[str, tuple[UnitLayer, Tensor]]]:
        """Return the dormant units: module, name of the unit layer, the layer and a bool mask ``(n,)``."""
        return {
            name: {
                layer.name: (layer, dormant(activity, self.tau))
                for layer, activity in unit_activity(agent, name, self.batch_size)
            }
            for name in self.modules
        }


def detach_readers(agent: RLModule, layer: UnitLayer, units: Tensor) -> None:
    """Set the weights with which any layer reads ``units`` to zero, and their optimizer moments."""
    outputs = layer.outputs_of(units)
    for reader in layer.readers:
        zero_columns(reader.weight, outputs, reader.inputs)
        _clear(agent, reader.weight, unit_columns(reader.weight, outputs, reader.inputs))


def clear_makers(agent: RLModule, layer: UnitLayer, units: Tensor) -> None:
    """Set the optimizer moments of the incoming weights and biases of ``units`` to zero."""
    for maker in layer.makers:
        for parameter in maker.parameters(recurse=False):
            _clear(agent, parameter, unit_rows(parameter, units))


def _clear(agent: RLModule, parameter: Tensor, elements: Tensor) -> None:
    optimizer = agent.optimizer_of(parameter)
    if optimizer is not None:
        clear_elements(optimizer, parameter, elements)
