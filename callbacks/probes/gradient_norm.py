"""Norms of the gradient of every module and layer in the last update."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tensordict import TensorDictBase
from torch import Tensor, nn

from plasticity_rl.agents.base import RLModule
from plasticity_rl.callback.charts import Layout, each
from plasticity_rl.callback.weight_probes import WeightProbe
from plasticity_rl.measures import l0_norm, l1_norm, l2_norm
from plasticity_rl.nn.layers import COMPUTES

NORMS: dict[str, Callable[[Iterable[Tensor]], Tensor]] = {"l0": l0_norm, "l1": l1_norm, "l2": l2_norm}


class GradientNorm(WeightProbe):
    """Norms of the gradients that the optimizers have just stepped on, each module's of the loss that trains it.

    ``l0`` is the number of entries that are not zero, ``l1`` the sum of absolute values, ``l2`` the Euclidean norm. In
    DrQ-v2, encoder and critic have the gradient of the critic's loss, the actor that of its own. Parameters without a
    gradient (frozen ones) count as zero.

    Mutates: nothing.
    Logs: ``gradient_norm_l0/<module>``, ``gradient_norm_l1/<module>``, ``gradient_norm_l2/<module>`` and, with
        ``per_layer``, ``gradient_norm_l0/<module>/<layer>``, ``gradient_norm_l1/<module>/<layer>``,
        ``gradient_norm_l2/<module>/<layer>``; NaN where a gradient is not finite.
    Reference: Abbas et al. 2023 (arXiv 2303.07507), which finds l2 misleading when taken alone.

    Args:
        every_n_updates: Period in gradient updates.
        modules: Modules by dotted name; None for all networks of the agent.
        per_layer: Whether to log every layer as well.
    """

    reads = frozenset({"gradients"})
    cuda_graph = "stays"
    parts = COMPUTES

    def weights_of(self, layer: nn.Module) -> Mapping[str, Tensor]:
        """Return the parameters themselves, which hold the gradients."""
        return dict(layer.named_parameters(recurse=False))

    def tags(self) -> frozenset[str]:
        """Return those of every norm."""
        return self.tags_of(*(f"gradient_norm_{name}" for name in NORMS))

    def charts(self) -> Layout:
        """Return a chart of each module for every norm."""
        words = {"l0": "entries other than zero", "l1": "sum of magnitudes", "l2": "Euclidean"}
        titles = {f"Gradients, {words[name]}": f"gradient_norm_{name}/{{}}" for name in NORMS}
        return {"Norms": each(self.modules, titles)}

    def measure(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> dict[str, Any]:
        """Return the norms of the gradients that the last update left behind."""
        scalars: dict[str, Any] = {}
        for name, norm in NORMS.items():
            scalars |= self.scalars(f"gradient_norm_{name}", agent, _of_gradients(norm))
        return scalars


def _of_gradients(norm: Callable[[Iterable[Tensor]], Tensor]) -> Callable[[Mapping[str, Tensor]], Tensor]:
    return lambda parameters: norm([p.grad for p in parameters.values() if p.grad is not None])
