"""Bases of probes that look at weights, module by module and layer by layer; see ``module_probes.py`` for the parts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import lightning.pytorch as pl
from torch import Tensor, nn

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.callback.module_probes import ModuleProbe, numbers_of_module, or_nan, tags_by_module
from plasticity_rl.measures import distance
from plasticity_rl.nn.layers import COMPUTES, EVERYWHERE, FIRST, Part
from plasticity_rl.nn.weight_transforms import parameters_in_use

Size: TypeAlias = Callable[[Mapping[str, Tensor]], Tensor]
"""A number about some weights, which it is given by their dotted names in the agent."""


def weights_by_layer(
    agent: RLModule,
    name: str,
    parts: Collection[Part] = COMPUTES,
    weights_of: Callable[[nn.Module], Mapping[str, Tensor]] = parameters_in_use,
) -> dict[str, dict[str, Tensor]]:
    """Return the weights of every layer of a module that has any: path -> dotted name in the agent -> tensor.

    Args:
        agent: Asked for the layers.
        name: Module by dotted name.
        parts: Parts that the layers may play.
        weights_of: Returns what counts of a layer, by name.
    """
    found = {}
    for path, layer in agent.submodules(name, parts).items():
        own = weights_of(layer)
        if own:
            found[path] = {f"{name}.{path}.{key}".replace("..", "."): value for key, value in own.items()}
    return found


def sizes(
    tag: str,
    agent: RLModule,
    weights: Mapping[str, Mapping[str, dict[str, Tensor]]],
    size: Size,
    parts: Collection[Part],
    *,
    per_layer: bool,
) -> dict[str, Any]:
    """Return ``size`` of the weights of every module and, with ``per_layer``, of every layer, under ``<tag>/...``.

    Args:
        tag: First part of the tags.
        agent: Asked for the parts that the layers play.
        weights: Of every module what :func:`weights_by_layer` returned.
        size: What is logged.
        parts: Parts that the number of a module is made of.
        per_layer: Whether to take every layer as well.
    """
    values: dict[str, Any] = {}
    for name, layers in weights.items():
        for suffix, some in numbers_of_module(agent, name, layers, parts).items():
            joined = {key: value for own in some.values() for key, value in own.items()}
            values[f"{tag}/{name}{suffix}"] = or_nan(size, joined)
        for path, own in layers.items() if per_layer else ():
            if path:
                values[f"{tag}/{name}/{path}"] = or_nan(size, own)
    return values


class WeightProbe(ModuleProbe):
    """A norm over the weights in use of chosen modules, logged for every module and every layer.

    Weights in use: of a layer with pruned weights, or a spectral norm, those that it computes with.

    Attributes:
        parts: Parts that the number of a module is made of.

    Args:
        every_n_updates: Period in gradient updates.
        modules: Modules by dotted name; None for all networks of the agent.
        per_layer: Whether to log every layer as well.
    """

    reads = frozenset({"weights"})
    parts: ClassVar[tuple[Part, ...]] = FIRST

    def __init__(
        self,
        *,
        every_n_updates: int = 1000,
        modules: Sequence[str] | None = None,
        per_layer: bool = True,
    ) -> None:
        super().__init__(every_n_updates=every_n_updates, modules=modules)
        self.per_layer = per_layer

    def tags_of(self, *tags: str) -> frozenset[str]:
        """Return what :meth:`scalars` writes under these tags."""
        return tags_by_module(tags, self.modules, layers=self.per_layer)

    def weights_of(self, layer: nn.Module) -> Mapping[str, Tensor]:
        """Return what counts of a layer, by name: its parameters as it computes with them."""
        return parameters_in_use(layer)

    def scalars(self, tag: str, agent: RLModule, size: Size) -> dict[str, Any]:
        """Return ``size`` of every module's and layer's weights under ``<tag>/...``."""
        layers = {name: weights_by_layer(agent, name, weights_of=self.weights_of) for name in self.modules}
        return sizes(tag, agent, layers, size, self.parts, per_layer=self.per_layer)


class WeightDistanceProbe(ModuleProbe):
    """Euclidean distance of the weights in use of chosen modules from a copy, which is part of the checkpoint.

    It does not follow when weights jump (:class:`plasticity_rl.agents.jumps.Jump`): the jump is part of the distance.

    Args:
        every_n_updates: Period in gradient updates.
        modules: Modules by dotted name; None for all networks of the agent.
        per_layer: Whether to log every layer as well.
    """

    reads = frozenset({"weights", "origin"})

    def __init__(
        self,
        *,
        every_n_updates: int = 1000,
        modules: Sequence[str] | None = None,
        per_layer: bool = True,
    ) -> None:
        super().__init__(every_n_updates=every_n_updates, modules=modules)
        self.per_layer = per_layer
        self._origin: dict[str, Tensor] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse unknown modules, and forget the weights of an earlier run."""
        super().setup(trainer, pl_module, stage)
        self._origin = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy the weights, unless a checkpoint held the copy; after ``setup``, in which networks may still change."""
        if not self._origin:
            self.copy_weights(as_agent(pl_module))
        # A checkpoint is read to the CPU; comparing there would fetch all weights from a GPU at every measurement.
        self._origin = {name: origin.to(pl_module.device) for name, origin in self._origin.items()}

    def copy_weights(self, agent: RLModule) -> None:
        """Measure from the present weights from now on, also those of heads in waiting."""
        for name in self.modules:
            for own in weights_by_layer(agent, name, EVERYWHERE).values():
                self._origin |= {key: value.detach().clone() for key, value in own.items()}

    def tags(self) -> frozenset[str]:
        """Return one tag for each module, and one for its layers."""
        return tags_by_module([self.name], self.modules, layers=self.per_layer)

    def distances(self, tag: str, agent: RLModule) -> dict[str, Any]:
        """Return the distances of every module and layer under ``<tag>/...``."""

        def from_origin(weights: Mapping[str, Tensor]) -> Tensor:
            return distance(weights.values(), [self._origin[name] for name in weights])

        layers = {name: weights_by_layer(agent, name) for name in self.modules}
        # Of all parts: what is frozen has moved, what is added starts at distance 0.
        return sizes(tag, agent, layers, from_origin, COMPUTES, per_layer=self.per_layer)

    def state_dict(self) -> dict[str, Any]:
        """Return the events seen and the copied weights."""
        return {**super().state_dict(), "origin": {name: origin.cpu() for name, origin in self._origin.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        super().load_state_dict(state_dict)
        self._origin = dict(state_dict["origin"])
