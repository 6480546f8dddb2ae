"""Size of one update relative to the weights, of every module and layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tensordict import TensorDictBase
from torch import Tensor

from plasticity_rl.agents.base import RLModule
from plasticity_rl.callback.charts import Layout, each
from plasticity_rl.callback.weight_probes import WeightProbe, weights_by_layer
from plasticity_rl.measures import relative_change
from plasticity_rl.nn.layers import EVERYWHERE, LEARNS


class EffectiveLearningRate(WeightProbe):
    """Norm of one update over the norm of the weights, ``||theta_(t+1) - theta_t|| / ||theta_t||``, by module.

    Of a layer behind which a norm follows, the function depends on the direction of the weights alone, and this is how
    far an update turns them: growing weights freeze it. The change of a single update, all that optimizers, their
    moments and the terms of regularizers did; what interventions did to the weights before it does not count.

    Mutates: nothing.
    Logs: ``effective_learning_rate/<module>`` and, with ``per_layer``, ``effective_learning_rate/<module>/<layer>``,
        >= 0; infinite for weights that were all zero and moved, 0 where nothing moved, NaN once weights are not finite.
    Reference: Lyle et al. 2024 (arXiv 2407.01800), section 3; van Laarhoven 2017 (arXiv 1706.05350).
    Differences from the original: of all parameters of a module or layer, over a single update, whether or not a norm
        follows.

    Args:
        every_n_updates: Period in gradient updates; the change is always over a single one.
        modules: Modules by dotted name; None for all networks of the agent.
        per_layer: Whether to log every layer as well.
    """

    reads = frozenset({"weights"})
    cuda_graph = "stays"
    parts = LEARNS  # what is frozen would count as weights that do not move
    example_arguments: ClassVar[Mapping[str, Any]] = {"every_n_updates": 3}

    def __init__(
        self, *, every_n_updates: int = 1000, modules: Sequence[str] | None = None, per_layer: bool = True
    ) -> None:
        super().__init__(every_n_updates=every_n_updates, modules=modules, per_layer=per_layer)
        self._before: dict[str, Tensor] = {}

    def tags(self) -> frozenset[str]:
        """Return one tag for each module, and one for its layers."""
        return self.tags_of("effective_learning_rate")

    def charts(self) -> Layout:
        """Return a chart of each module."""
        return {"Norms": each(self.modules, {"Update relative to the weights": "effective_learning_rate/{}"})}

    def begin(self, agent: RLModule) -> None:
        """Copy the weights."""
        layers = [own for name in self.modules for own in weights_by_layer(agent, name, EVERYWHERE).values()]
        self._before = {key: value.detach().clone() for own in layers for key, value in own.items()}

    def measure(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> dict[str, Any]:
        """Compare with the weights now, and let the copy go."""

        def of(weights: Mapping[str, Tensor]) -> Tensor:
            return relative_change(weights.values(), [self._before[name] for name in weights])

        try:
            return self.scalars("effective_learning_rate", agent, of)
        finally:
            self._before = {}
