"""Base of the interventions that look for dormant units every so many updates and do something to them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from plasticity_rl.agents.base import RLModule
from plasticity_rl.callback.bases import UpdateIntervention
from plasticity_rl.callback.unit_interventions import UnitIntervention
from plasticity_rl.errors import UserError
from plasticity_rl.nn.units import UnitLayer, dormant, unit_activity


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
        if not 0 <= tau < 1:
            raise UserError(f"{type(self).__name__}.tau={tau} must be in [0, 1): at 1 an average unit is dormant")
        if batch_size < 1:
            raise UserError(f"{type(self).__name__}.batch_size={batch_size} must be a whole number >= 1")
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
