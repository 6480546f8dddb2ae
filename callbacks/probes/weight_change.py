"""How far the weights moved since the last measurement."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from tensordict import TensorDictBase

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.callback.charts import Layout, each
from plasticity_rl.callback.weight_probes import WeightDistanceProbe


class WeightChange(WeightDistanceProbe):
    """Euclidean distance ``||theta_t - theta_(t-n)||`` of all parameters over the last ``every_n_updates`` updates.

    It is a net displacement: steps to and fro cancel. What interventions did to the weights meanwhile counts too, so a
    reset shows as a peak. The copy of the weights is part of the checkpoint. One that joins a run which goes on logs
    nothing at the end of an interval of which it saw only a part.

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
    _is_part: bool = False
    """Whether the interval that began with the copied weights is only the rest of one."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy the weights, unless a checkpoint held the copy, and note whether an interval has begun before."""
        if not self._origin:
            self._is_part = as_agent(pl_module).num_updates % self.every_n_updates != 0
        super().on_fit_start(trainer, pl_module)

    def charts(self) -> Layout:
        """Return a chart of each module."""
        return {"Norms": each(self.modules, {"Change of the weights between measurements": "weight_change/{}"})}

    def measure(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> dict[str, Any]:
        """Return the distances, unless over a part of an interval, and start anew from here."""
        changes = {} if self._is_part else self.distances("weight_change", agent)
        self._is_part = False
        self.copy_weights(agent)
        return changes

    def state_dict(self) -> dict[str, Any]:
        """Return the events seen, the copied weights, and whether they are of the middle of an interval."""
        return {**super().state_dict(), "is_part": self._is_part}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        super().load_state_dict(state_dict)
        self._is_part = state_dict.get("is_part", False)
