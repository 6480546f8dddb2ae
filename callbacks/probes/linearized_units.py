"""Share of hidden units that are active on every input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from plasticity_rl.agents.base import RLModule
from plasticity_rl.callback.charts import Layout, each
from plasticity_rl.callback.module_probes import ActivationProbe, numbers_of_module, or_nan, tags_by_module
from plasticity_rl.measures.dormancy import linearized_mask


class LinearizedUnits(ActivationProbe):
    """Share of hidden ReLU units whose output is above zero on every input: a network of such units is linear.

    On a batch of the replay without augmentation, after the update's step. A channel of a convolution is one unit, and
    counts when it is above zero at every position as well. With ``CReLU``, which puts out both signs of a unit, it
    counts when either is above zero on every input. A module's share weighs every unit alike. Behind activations other
    than these an output above zero does not mean that the unit is linear.

    Mutates: nothing.
    Logs: ``linearized/<module>`` and, with ``per_layer``, ``linearized/<module>/<layer>``, in [0, 1]; NaN while
        activations are not finite.
    Reference: Lyle et al. 2024 (arXiv 2402.18762), linearised ("zombie") units.
    Differences from the original: on 256 transitions by default; the share falls as the batch grows.

    Args:
        every_n_updates: Period in gradient updates.
        modules: Modules by dotted name, each with a hidden ReLU layer; None for all that have one.
        per_layer: Whether to log every layer as well.
        batch_size: Transitions in the probe batch; the share falls as it grows.
    """

    cuda_graph = "stays"
    example_arguments: ClassVar[Mapping[str, Any]] = {"every_n_updates": 3, "batch_size": 20}

    def __init__(
        self,
        *,
        every_n_updates: int = 1000,
        modules: Sequence[str] | None = None,
        per_layer: bool = True,
        batch_size: int = 256,
    ) -> None:
        super().__init__(every_n_updates=every_n_updates, modules=modules, batch_size=batch_size)
        self.per_layer = per_layer

    def tags(self) -> frozenset[str]:
        """Return one tag for each module, and one for its layers."""
        return tags_by_module(["linearized"], self.modules, layers=self.per_layer)

    def charts(self) -> Layout:
        """Return a chart of each module."""
        charts = each(self.modules, {"Units active on every input": "linearized/{}"})
        return {"Linear units, and units without gradient": charts}

    def measure(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> dict[str, Any]:
        """Return the share of every module and layer."""
        scalars: dict[str, Any] = {}
        for name in self.modules:
            outputs, layers = agent.probe_activations(name, self.batch_size), agent.activation_layers(name)
            pairs = {layer: (output, layers[layer]) for layer, output in outputs.items()}
            for suffix, some in numbers_of_module(agent, name, pairs).items():
                scalars[f"linearized/{name}{suffix}"] = or_nan(_share, some.values())
            for layer, pair in pairs.items() if self.per_layer else ():
                scalars[f"linearized/{name}/{layer}"] = or_nan(_share, [pair])
        return scalars


def _share(layers: Iterable[tuple[Tensor, nn.Module]]) -> Tensor:
    """Return the share of the units of all layers, each given by its output and itself."""
    return torch.cat([linearized_mask(output, layer) for output, layer in layers]).float().mean()
