"""Norms of the features and of the pre-activations of every module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tensordict import TensorDictBase

from plasticity_rl.agents.base import RLModule
from plasticity_rl.callback.charts import Layout, each
from plasticity_rl.callback.layer_inputs import means_by_layer
from plasticity_rl.callback.module_probes import ActivationProbe, or_nan
from plasticity_rl.measures import mean_norm
from plasticity_rl.nn.layers import LEARNS


class FeatureNorm(ActivationProbe):
    """Mean Euclidean norm of the features, and of what the hidden activations are given.

    Features are the outputs of a module's last hidden activation layer that learns, flattened; pre-activations the
    inputs of its hidden activation layers (behind a norm, where there is one). Mean over the transitions of a batch of
    the replay without augmentation, after the update's step. Feature maps are one vector each, so their norm grows with
    the image; those of a frozen encoder (``FrozenEncoder``) are of single frames.

    Mutates: nothing.
    Logs: ``feature_norm/<module>``, ``preactivation_norm/<module>`` (of that layer) and, with ``per_layer``,
        ``preactivation_norm/<module>/<layer>``, all >= 0; NaN while activations are not finite.
    Reference: Lyle et al. 2024 (arXiv 2402.18762): growing features and pre-activations whose distribution shifts are
        two of the mechanisms of plasticity loss there.

    Args:
        every_n_updates: Period in gradient updates.
        modules: Modules by dotted name, each with a hidden activation layer; None for all that have one, every value
            head by itself.
        per_layer: Whether to log the pre-activations of every layer as well.
        batch_size: Transitions in the probe batch.
    """

    reads = frozenset({"features"})
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

    def default_modules(self, agent: RLModule) -> list[str]:
        """Return the modules that have hidden units, every value head by itself."""
        return agent.feature_networks()

    def tags(self) -> frozenset[str]:
        """Return two tags for each module, and one for its layers."""
        kinds = ["feature_norm/{}", "preactivation_norm/{}", *(["preactivation_norm/{}/*"] if self.per_layer else [])]
        return frozenset(kind.format(name) for kind in kinds for name in self.modules)

    def charts(self) -> Layout:
        """Return a chart of the features of each module, and one of its pre-activations."""
        titles = {"Features": "feature_norm/{}", "Pre-activations": "preactivation_norm/{}"}
        return {"Norms": each(self.modules, titles)}

    def measure(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> dict[str, Any]:
        """Return the norms of every module, from one forward pass that keeps no activations."""
        layers = {name: agent.activation_layers(name) for name in self.modules}
        wanted = {f"{name}/{path}": layer for name, own in layers.items() for path, layer in own.items()}
        seen = means_by_layer(agent, wanted, self.batch_size, lambda values: or_nan(mean_norm, values))
        scalars: dict[str, Any] = {}
        for name, own in layers.items():
            ran = [path for path in own if f"{name}/{path}" in seen]
            last = [path for path in agent.activation_layers(name, LEARNS) if path in ran][-1]
            scalars |= self._of_module(name, {path: seen[f"{name}/{path}"] for path in ran}, last)
        return scalars

    def _of_module(self, name: str, seen: Mapping[str, tuple[Any, Any]], last: str) -> dict[str, Any]:
        given, features = seen[last]
        scalars = {f"feature_norm/{name}": features, f"preactivation_norm/{name}": given}
        for path, (norm, _) in seen.items() if self.per_layer else ():
            scalars[f"preactivation_norm/{name}/{path}"] = norm
        return scalars
