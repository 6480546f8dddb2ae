"""Bases of probes that look at hidden units or at their rank, module by module.

After an injection of plasticity, which changes no output: a number that describes a module (shares of its units, the
norm of its weights) goes on being that of the layers it had from the start, and the added heads have one of their own,
``<module>/added``; a number about learning (ranks, gradients) is that of what learns now, the added head; every layer
has its own. What is subtracted or waits counts nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import lightning.pytorch as pl
from tensordict import TensorDictBase

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.callback.charts import Layout, by_module
from plasticity_rl.callback.feature_batches import automatic_batch_size, feature_shape, last_features
from plasticity_rl.callback.probe import Probe
from plasticity_rl.errors import UserError, at_least, listed
from plasticity_rl.measures import NotFiniteError, Spectrum, spectrum
from plasticity_rl.nn.layers import ADDED, FIRST, Part

T = TypeVar("T")


class ModuleProbe(Probe):
    """A probe of chosen modules.

    Args:
        every_n_updates: Period in gradient updates.
        modules: Modules by dotted name; None for those of the agent that there is something to see of.
    """

    modules: list[str]
    least_batch_size: ClassVar[int] = 1
    """Transitions that a measurement needs."""

    def __init__(self, *, every_n_updates: int, modules: Sequence[str] | None) -> None:
        super().__init__(every_n_updates=every_n_updates)
        self.modules = [] if modules is None else listed(f"{type(self).__name__}.modules", modules)
        self.leave_open(modules=modules)

    @property
    def joined_modules(self) -> str:
        """The modules in one segment of a tag."""
        return "+".join(self.modules)

    def enough(self, batch_size: int) -> int:
        """Return the number of transitions to measure on, or raise UserError when it is too small."""
        at_least(f"{type(self).__name__}.batch_size", batch_size, self.least_batch_size)
        return batch_size

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

    reads = frozenset({"units"})

    def __init__(self, *, every_n_updates: int, modules: Sequence[str] | None, batch_size: int) -> None:
        super().__init__(every_n_updates=every_n_updates, modules=modules)
        self.batch_size = self.enough(batch_size)

    def default_modules(self, agent: RLModule) -> list[str]:
        """Return the modules that have hidden units."""
        return agent.networks_with_units()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse unknown modules, and those without hidden units, before training."""
        super().setup(trainer, pl_module, stage)
        refuse_without_units(as_agent(pl_module), self)


def refuse_without_units(agent: RLModule, probe: ModuleProbe) -> None:
    """Raise UserError when one of the modules has nothing to see of hidden units."""
    for name in probe.modules:
        if not agent.activation_layers(name):
            raise UserError(f"{type(probe).__name__}.modules: {name!r} has no hidden ReLU layer")


class RankProbe(ModuleProbe):
    """A rank of the features of chosen modules, logged as ``rank/<name>/<module>``.

    Features are the outputs of a module's last hidden activation layer that learns, flattened, on the probe batch:
    after an injection of plasticity that of the added head. Of a module with several heads that is the last head's;
    name a head, as the default does. Of a frozen encoder (``FrozenEncoder``) they are the outputs of the last frozen
    layer on all frames of an observation, one row for each observation; what is trained there has no hidden layer.

    Args:
        every_n_updates: Period in gradient updates.
        modules: Modules by dotted name, each with a hidden ReLU layer; None for all that have one, every value head by
            itself.
        batch_size: Transitions in the probe batch; no rank can exceed it. None takes four for every unit of the layer
            (see :func:`automatic_batch_size`) where that is more than 256, and none twice: a replay that holds fewer
            gives all that it has, and the run warns once, for ranks of fewer transitions are lower. Of layers of up to
            64 units, and of feature maps, it takes the 256 that probes share; these, and a given number, are drawn with
            replacement, so that a replay which holds few gives some of them several times.
    """

    reads = frozenset({"features"})

    example_arguments: ClassVar[Mapping[str, Any]] = {"every_n_updates": 4, "batch_size": 20}

    def __init__(
        self,
        *,
        every_n_updates: int = 1000,
        modules: Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(every_n_updates=every_n_updates, modules=modules)
        self.batch_size = None if batch_size is None else self.enough(batch_size)

    def default_modules(self, agent: RLModule) -> list[str]:
        """Return the modules that have hidden units, every value head by itself."""
        return agent.feature_networks()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse unknown modules, and those without hidden units, before training."""
        super().setup(trainer, pl_module, stage)
        refuse_without_units(as_agent(pl_module), self)

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


def numbers_of_module(
    agent: RLModule, name: str, by_layer: Mapping[str, T], parts: Collection[Part] = FIRST
) -> dict[str, dict[str, T]]:
    """Sort what was measured of a module's layers into the numbers of the module.

    Args:
        agent: Asked for the parts that the layers play.
        name: Module by dotted name.
        by_layer: What was measured, by dotted name in the module.
        parts: Parts that the number of the module is made of.

    Returns:
        End of the tag -> layers: ``""``, and after an injection, unless they are among ``parts``, ``/added``.
    """
    which: dict[str, Collection[Part]] = {"": parts}
    if "added" not in parts:
        which["/added"] = ADDED
    inside = {suffix: agent.submodules(name, some) for suffix, some in which.items()}
    return {
        suffix: {path: value for path, value in by_layer.items() if path in paths}
        for suffix, paths in inside.items()
        if paths or not suffix
    }


def tags_by_module(tags: Iterable[str], modules: Iterable[str], *, layers: bool) -> frozenset[str]:
    """Return ``<tag>/<module>`` for all tags and modules, and below it ``added`` or, with ``layers``, ``*``."""
    own = [f"{tag}/{name}" for tag in tags for name in modules]
    return frozenset([*own, *(f"{tag}/{'*' if layers else 'added'}" for tag in own)])
