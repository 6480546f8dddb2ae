"""Dormant units on a batch of the replay, and the base of the interventions that do something to them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plasticity_rl.agents.base import RLModule
from plasticity_rl.callback.scheduled import UpdateIntervention
from plasticity_rl.callback.unit_interventions import UnitIntervention
from plasticity_rl.distributed.ranks import over_ranks
from plasticity_rl.errors import at_least, within
from plasticity_rl.measures import NotFiniteError, dormant_mask
from plasticity_rl.measures.dormancy import mean_of_units
from plasticity_rl.nn.units import UnitLayer


class DormantUnitIntervention(UnitIntervention, UpdateIntervention):
    """Finds the dormant units of modules on a batch of the replay, not augmented and drawn apart from the run's own.

    Args:
        modules: Modules by dotted name; only hidden ReLU units count, outputs and trunks (tanh) have none.
        tau: A unit is dormant when its mean absolute output is at most ``tau`` times the mean of its layer.
        every_n_updates: Period in gradient updates.
        batch_size: Observations that the activity is averaged over.

    Raises:
        UserError: When ``tau`` is not in [0, 1) or ``batch_size`` is not positive.
    """

    acts_on = "dormancy"

    def __init__(self, *, modules: Sequence[str] | None, tau: float, every_n_updates: int, batch_size: int) -> None:
        super().__init__(every_n_updates=every_n_updates)
        within(f"{type(self).__name__}.tau", tau, "[0, 1)", ": at 1 an average unit is dormant")
        at_least(f"{type(self).__name__}.batch_size", batch_size, 1)
        self.modules = self.named_or_open(modules, ("encoder", "actor", "critic"))
        self.tau, self.batch_size = tau, batch_size

    def find_dormant(self, agent: RLModule) -> dict[str, dict[str, tuple[UnitLayer, Tensor]]]:
        """Return the dormant units: module, name of the unit layer, the layer and a bool mask ``(n,)``."""
        return {
            name: {
                layer.name: (layer, dormant(activity, self.tau))
                for layer, activity in unit_activity(agent, name, self.batch_size)
            }
            for name in self.modules
        }


@torch.no_grad()
def unit_activity(agent: RLModule, name: str, batch_size: int) -> list[tuple[UnitLayer, Tensor]]:
    """Return the hidden units of a module, each layer with the mean absolute output ``(n,)`` of its units.

    The mean is over the probe batch, and over space in convolutions. Under DDP it is the mean over all ranks, so that
    all decide alike.
    """
    outputs = agent.probe_activations(name, batch_size)
    path_of = {id(layer): path for path, layer in agent.activation_layers(name).items()}
    activity = []
    for layer in agent.units(name):
        if path_of[id(layer.activation)] not in outputs:
            continue  # a head that does not run yet
        mean = mean_of_units(outputs[path_of[id(layer.activation)]], layer.activation)
        activity.append((layer, over_ranks(agent, mean)))
    return activity


def dormant(activity: Tensor, tau: float) -> Tensor:
    """Return which units of a layer are dormant at ``tau``, as :func:`plasticity_rl.measures.dormant_mask`.

    Args:
        activity: Mean absolute output of each unit, ``(n,)``. With NaN or infinity among them none counts as dormant.
        tau: Threshold, in [0, 1). In a layer without any activity all units are dormant.
    """
    try:
        return dormant_mask(activity[None], tau)
    except NotFiniteError:
        return torch.zeros_like(activity, dtype=torch.bool)
