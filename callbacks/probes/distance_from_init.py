"""Distance of the weights from where they started."""

from __future__ import annotations

from typing import Any

from tensordict import TensorDictBase

from plasticity_rl.agents.base import RLModule
from plasticity_rl.callback.charts import Layout, each
from plasticity_rl.callback.weight_probes import WeightDistanceProbe


class DistanceFromInit(WeightDistanceProbe):
    """Euclidean distance ``||theta - theta_0||`` of all parameters, after the update's step.

    ``theta_0`` are the weights with which the run started to be measured, and stays that: a reset shows as a jump. The
    copy is part of the checkpoint.

    Mutates: nothing.
    Logs: ``distance_from_init/<module>`` and, with ``per_layer``, ``distance_from_init/<module>/<layer>``; NaN once
        weights are not finite.
    Reference: the quantity that Kumar et al. 2023 (arXiv 2308.11958), Eq. 2, penalise, here without the square.

    Args:
        every_n_updates: Period in gradient updates.
        modules: Modules by dotted name; None for all networks of the agent.
        per_layer: Whether to log every layer as well.
    """

    cuda_graph = "stays"

    def charts(self) -> Layout:
        """Return a chart of each module."""
        return {"Norms": each(self.modules, {"Distance from the initial weights": "distance_from_init/{}"})}

    def measure(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> dict[str, Any]:
        """Return the distances."""
        return self.distances("distance_from_init", agent)
