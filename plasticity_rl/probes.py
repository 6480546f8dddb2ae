"""Bases of probes that look at hidden units, at their rank, or at weights module by module."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
from tensordict import TensorDictBase
from torch import Tensor, nn

from plasticity_rl.callback import Probe, as_agent
from plasticity_rl.errors import UserError
from plasticity_rl.feature_batches import LEAST, automatic_batch_size, feature_shape, last_features
from plasticity_rl.measures import NotFiniteError, Spectrum, distance, spectrum
from plasticity_rl.rl_module import RLModule
from plasticity_rl.tensorboard_layout import Layout, by_module


class ModuleProbe(Probe):
    """A probe of chosen modules.

    Args:
        every_n_updates: Period in gradient updates.
        modules: Modules by dotted name; None for those of the agent that there is something to see of.
    """

    modules: list[str]

    def __init__(self, *, every_n_updates: int, modules: Sequence[str] | None) -> None:
        super().__init__(every_n_updates=every_n_updates)
        self.modules = [] if modules is None else list(modules)
        self.leave_open(modules=modules)

    def default_modules(self, agent: RLModule) -> list[str]:
        """Return the modules to look at where none are named."""
        return agent.networks()

    def default_for(self, argument: str, agent: RLModule) -> Any:
        """Return the agent's modules."""
        return self.default_modules(agent) if argument == "modules" else super().default_for(argument, agent)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse unknown modules before training."""
        self.resolve(as_agent(pl_module))
        if not self.modules:
            raise UserError(f"{type(self).__name__}.modules is empty; name at least one module")
        for name in self.modules:
            as_agent(pl_module).module(name)


class ActivationProbe(ModuleProbe):
    """A probe of the hidden activations of chosen modules on the shared probe batch.

    Args:
        every_n_updates: Period in gradient updates.
        modules: Modules by dotted name, each with a hidden ReLU layer; None for all that have one.
        batch_size: Transitions in the probe batch.

    Raises:
        UserError: When the batch size is not positive.
    """

    def __init__(self, *, every_n_updates: int, modules: Sequence[str] | None, batch_size: int) -> None:
        super().__init__(every_n_updates=every_n_updates, modules=modules)
        if batch_size < 1:
            raise UserError(f"{type(self).__name__}.batch_size={batch_size} must be a whole number >= 1")
        self.batch_size = batch_size

    def default_modules(self, agent: RLModule) -> list[str]:
        """Return the modules that have hidden units."""
        return agent.networks_with_units()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse unknown modules, and those without hidden units, before training."""
        super().setup(trainer, pl_module, stage)
        for name in self.modules:
            if not as_agent(pl_module).activation_layers(name):
                raise UserError(f"{type(self).__name__}.modules: {name!r} has no hidden ReLU layer")


class RankProbe(ActivationProbe):
    """A rank of the features of chosen modules, logged as ``rank/<name>/<module>``.

    Features are the outputs of a module's last hidden activation layer, flattened, on the probe batch. Of a module with
    several heads that is the last head's; name a head, as the default does.

    Args:
        every_n_updates: Period in gradient updates.
        modules: Modules by dotted name, each with a hidden ReLU layer; None for all that have one, every value head by
            itself.
        batch_size: Transitions in the probe batch; no rank can exceed it. None takes four for every unit of the layer,
            at least 256 (see :func:`automatic_batch_size`).
    """

    batch_size: int | None  # type: ignore[assignment]

    example_arguments: ClassVar[Mapping[str, Any]] = {"every_n_updates": 4, "batch_size": 20}

    def __init__(
        self,
        *,
        every_n_updates: int = 1000,
        modules: Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> None:
        checked = LEAST if batch_size is None else batch_size
        super().__init__(every_n_updates=every_n_updates, modules=modules, batch_size=checked)
        self.batch_size = batch_size

    def default_modules(self, agent: RLModule) -> list[str]:
        """Return the modules that have hidden units, every value head by itself."""
        return agent.feature_networks()

    @property
    def tag(self) -> str:
        """First part of the tags."""
        return f"rank/{self.name}"

    def charts(self) -> Layout:
        """Return a chart for each module, which all ranks share."""
        return by_module(self.modules, "Ranks of the features", f"{self.tag}/{{}}")

    def tags(self) -> frozenset[str]:
        """Return one tag for each module."""
        return frozenset(f"{self.tag}/{name}" for name in self.modules)

    def notes(self, agent: RLModule) -> list[str]:
        """Return one line for every module of which the batch shows less than the layer has units."""
        if self.batch_size is None:
            return []
        shapes = {name: feature_shape(agent, name) for name in self.modules}
        return [
            f"{type(self).__name__}.batch_size={self.batch_size}: no rank of {name}, whose last hidden layer has "
            f"{shape[1]} units, can come out above {self.batch_size}, so that a collapse to there stays hidden; leave "
            f"it open (null) for {automatic_batch_size(shape, agent.data.capacity)} transitions"
            for name, shape in shapes.items()
            if len(shape) == 2 and self.batch_size < min(shape[1], agent.data.capacity)
        ]

    def rank(self, features: Spectrum) -> float:
        """Return the rank of the features with this spectrum."""
        raise NotImplementedError

    def measure(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> dict[str, Any]:
        """Return the rank of every module."""

        def rank(name: str) -> float:
            return self.rank(feature_spectrum(agent, name, self.batch_size))

        return {f"{self.tag}/{name}": or_nan(rank, name) for name in self.modules}


def feature_spectrum(agent: RLModule, name: str, batch_size: int | None) -> Spectrum:
    """Return the spectrum of a module's features on the probe batch, computed once for all probes of an update.

    Args:
        agent: Attached to a Trainer and a replay.
        name: Module by dotted name.
        batch_size: Transitions, or None for as many as the layer's width asks for.

    Raises:
        NotFiniteError: When the features hold NaN or infinity.
    """

    def compute() -> Spectrum:
        return spectrum(last_features(agent, name, batch_size))

    return agent.once_per_update(("spectrum", name, batch_size), compute)


def or_nan(measure: Callable[..., Any], *args: Any) -> Any:
    """Return ``measure(*args)``, or NaN where it is not defined: a probe must not end a run that has diverged."""
    try:
        return measure(*args)
    except NotFiniteError:
        return math.nan


def tags_by_module(tags: Iterable[str], modules: Iterable[str], *, layers: bool) -> frozenset[str]:
    """Return ``<tag>/<module>`` for all tags and modules, and with ``layers`` also ``<tag>/<module>/*``."""
    own = [f"{tag}/{name}" for tag in tags for name in modules]
    return frozenset([*own, *(f"{tag}/*" for tag in own if layers)])


def weights_by_layer(module: nn.Module) -> Iterator[tuple[str, dict[str, nn.Parameter]]]:
    """Yield every layer that holds parameters of its own: its dotted name in ``module`` and its parameters by name."""
    for path, layer in module.named_modules():
        own = dict(layer.named_parameters(recurse=False))
        if own:
            yield path, own


class WeightProbe(ModuleProbe):
    """A norm over the parameters of chosen modules, logged for every module and every layer.

    Args:
        every_n_updates: Period in gradient updates.
        modules: Modules by dotted name; None for all networks of the agent.
        per_layer: Whether to log every layer as well.
    """

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

    def scalars(
        self, tag: str, agent: RLModule, size: Callable[[Mapping[str, nn.Parameter]], Tensor]
    ) -> dict[str, Any]:
        """Return ``size`` of every module's and layer's parameters (by name in the agent) under ``<tag>/...``."""
        values: dict[str, Any] = {}
        for name in self.modules:
            module = agent.module(name)
            values[f"{tag}/{name}"] = or_nan(size, {f"{name}.{key}": p for key, p in module.named_parameters()})
            for path, own in weights_by_layer(module) if self.per_layer else ():
                if path:
                    layer = {f"{name}.{path}.{key}": p for key, p in own.items()}
                    values[f"{tag}/{name}/{path}"] = or_nan(size, layer)
        return values


class WeightDistanceProbe(WeightProbe):
    """Euclidean distance of the parameters of chosen modules from a copy, which is part of the checkpoint.

    Args:
        every_n_updates: Period in gradient updates.
        modules: Modules by dotted name; None for all networks of the agent.
        per_layer: Whether to log every layer as well.
    """

    def __init__(
        self,
        *,
        every_n_updates: int = 1000,
        modules: Sequence[str] | None = None,
        per_layer: bool = True,
    ) -> None:
        super().__init__(every_n_updates=every_n_updates, modules=modules, per_layer=per_layer)
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
        """Measure from the present weights from now on."""
        for name in self.modules:
            for key, parameter in agent.module(name).named_parameters():
                self._origin[f"{name}.{key}"] = parameter.detach().clone()

    def tags(self) -> frozenset[str]:
        """Return one tag for each module, and one for its layers."""
        return self.tags_of(self.name)

    def distances(self, tag: str, agent: RLModule) -> dict[str, Any]:
        """Return the distances of every module and layer under ``<tag>/...``."""

        def from_origin(parameters: Mapping[str, nn.Parameter]) -> Tensor:
            return distance(parameters.values(), [self._origin[name] for name in parameters])

        return self.scalars(tag, agent, from_origin)

    def state_dict(self) -> dict[str, Any]:
        """Return the events seen and the copied weights."""
        return {**super().state_dict(), "origin": {name: origin.cpu() for name, origin in self._origin.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        super().load_state_dict(state_dict)
        self._origin = dict(state_dict["origin"])
