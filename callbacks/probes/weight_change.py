"""How far the weights moved since the last measurement."""

from __future__ import annotations

from typing import Any

from tensordict import TensorDictBase

from plasticity_rl.agents.base import RLModule
from plasticity_rl.callback.charts import Layout, each
from plasticity_rl.callback.weight_probes import WeightDistanceProbe


class WeightChange(WeightDistanceProbe):
    """Euclidean distance ``||theta_t - theta_(t-n)||`` of all parameters over the last ``every_n_updates`` updates.

    It is a net displacement: steps to and fro cancel. What interventions did to the weights meanwhile counts too, so a
    reset shows as a peak. The copy of the weights is part of the checkpoint.

    Mutates: nothing.
    Logs: ``weight_change/<module>`` and, with ``per_layer``, ``weight_change/<module>/<layer>``; NaN once weights are
        not finite.
    Reference: Abbas et al. 2023 (arXiv 2303.07507), change of the weights during a visit to a task.
    Differences from the original: over a number of updates instead of a visit to a task.

    Args:
        every_n_updates: Period in gradient updates, and the interval over which the change is measured.
        modules: Modules by dotted name; None for all networks of the agent.
        per_layer: Whether to log every layer as well.
    """

    cuda_graph = "stays"

    def charts(self) -> Layout:
        """Return a chart of each module."""
        return {"Norms": each(self.modules, {"Change of the weights between measurements": "weight_change/{}"})}

    def measure(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> dict[str, Any]:
        """Return the distances, and start anew from here."""
        changes = self.distances("weight_change", agent)
        self.copy_weights(agent)
        return changes
