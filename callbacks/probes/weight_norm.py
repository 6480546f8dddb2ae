"""Norm of the weights of every module and layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensordict import TensorDictBase
from torch import Tensor

from plasticity_rl.agents.base import RLModule
from plasticity_rl.callback.charts import Layout, each
from plasticity_rl.callback.weight_probes import WeightProbe
from plasticity_rl.measures import l2_norm


class WeightNorm(WeightProbe):
    """Euclidean norm of all parameters (weights, biases, norm layers), after the update's step.

    Weights are those that a layer computes with: without pruned ones, and divided by a spectral norm.

    Mutates: nothing.
    Logs: ``weight_norm/<module>`` and, with ``per_layer``, ``weight_norm/<module>/<layer>``; NaN once weights are not
        finite.
    Reference: among the quantities that Lyle et al. 2023 (arXiv 2303.01486) relate to plasticity; here the plain l2
        norm, not divided by the number of parameters.

    Args:
        every_n_updates: Period in gradient updates.
        modules: Modules by dotted name; None for all networks of the agent.
        per_layer: Whether to log every layer as well.
    """

    cuda_graph = "stays"

    def tags(self) -> frozenset[str]:
        """Return one tag for each module, and one for its layers."""
        return self.tags_of("weight_norm")

    def charts(self) -> Layout:
        """Return a chart of each module."""
        return {"Norms": each(self.modules, {"Weights": "weight_norm/{}"})}

    def measure(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> dict[str, Any]:
        """Return the norms."""
        return self.scalars("weight_norm", agent, _norm)


def _norm(weights: Mapping[str, Tensor]) -> Tensor:
    return l2_norm(weights.values())
