"""Fraction of active units (FAU) of encoder, actor and critic, by three definitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import lightning.pytorch as pl
import torch
from tensordict import TensorDictBase
from torch import Tensor

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.callback import Probe
from plasticity_rl.callback.charts import ONE, Layout, by_module, each
from plasticity_rl.callback.module_probes import numbers_of_module, tags_by_module
from plasticity_rl.callback.unit_activity import TrainingActivations
from plasticity_rl.errors import at_least, listed, one_of, within
from plasticity_rl.measures import active_and_total, nan_unless_finite, pooled_fraction, share_above, unit_rates
from plasticity_rl.measures.dormancy import rates_of_units

DEFINITIONS = ("element_rate", "any_input", "mean_rate")
BATCHES = ("training", "probe")


class FractionActiveUnits(Probe):
    """Share of hidden ReLU outputs above zero, per module and per layer; by default by element, as published.

    Measured as the authors do: on the training batch of an update (augmented when augmentation is on), online networks,
    before the optimizer step. Each layer is read at its first pass with gradient: the encoder on the current
    observations, the critic in its own loss, the actor in its own loss. With ``batch="probe"`` it is measured on the
    batch of the replay that all probes share, without augmentation, after the step. With ``--model.compile`` updates
    whose training batch is read run uncompiled, and so change the run by rounding.

    Definitions: ``element_rate`` is the share of all outputs (over batch, layers and space) that are above zero, about
    0.5 at initialisation: the published curves. ``any_input`` is the share of units, a channel of a convolution being
    one, that are above zero on at least one input: 1 minus the fraction of dead units, near 1 at initialisation.
    ``mean_rate`` is the share of units that are above zero on more than ``threshold`` of the inputs. With ``CReLU`` or
    ``DeepFourierFeatures`` a unit has two outputs: these two definitions take the one that is above zero more often,
    so that ``mean_rate`` is 1 behind a CReLU at any threshold below one half, and ``element_rate`` is one half.

    Mutates: nothing.
    Logs: ``fau/<module>`` and, with ``per_layer``, ``fau/<module>/<layer>``, in [0, 1]. That is the element rate on the
        training batch; any other definition writes ``fau_<definition>/...``, and on the probe batch
        ``fau_<definition>_probe_batch/...``, so that two definitions side by side keep apart. After an injection of
        plasticity these are the units that the module had before, and the layer ``added`` is the added heads together.
        NaN while activations are not finite.
    Reference: Ma et al. 2024 (arXiv 2310.07418), section 3. Layers: the encoder's 4 convolutions, the actor's 2 hidden
        layers, the critic's 2 hidden layers in both heads; trunk (tanh) and outputs have no ReLU and do not count.
    Differences from the original: none known with the defaults; ``definition`` and ``batch`` are additions.

    Args:
        every_n_updates: Period in gradient updates.
        modules: Modules by dotted name; None for all that have hidden units.
        per_layer: Whether to log every layer as well.
        definition: ``element_rate``, ``any_input`` or ``mean_rate``.
        batch: ``training`` or ``probe``.
        threshold: Of ``mean_rate``: share of the inputs, in [0, 1).
        batch_size: Transitions in the probe batch.

    Raises:
        UserError: When a value is not allowed.
    """

    reads = frozenset({"units"})
    cuda_graph = "watches"
    headline_words = "fraction of active units"
    example_arguments: ClassVar[Mapping[str, Any]] = {"every_n_updates": 3}

    def __init__(
        self,
        *,
        every_n_updates: int = 100,
        modules: Sequence[str] | None = None,
        per_layer: bool = True,
        definition: Literal["element_rate", "any_input", "mean_rate"] = "element_rate",
        batch: Literal["training", "probe"] = "training",
        threshold: float = 0.05,
        batch_size: int = 256,
    ) -> None:
        super().__init__(every_n_updates=every_n_updates)
        for option, value, allowed in (("definition", definition, DEFINITIONS), ("batch", batch, BATCHES)):
            one_of(f"FractionActiveUnits.{option}", value, allowed)
        within("FractionActiveUnits.threshold", threshold, "[0, 1)")
        at_least("FractionActiveUnits.batch_size", batch_size, 1)
        self.modules = [] if modules is None else listed("FractionActiveUnits.modules", modules)
        self.per_layer = per_layer
        self.leave_open(modules=modules)
        self.definition, self.batch, self.threshold, self.batch_size = definition, batch, threshold, batch_size
        self._counter = TrainingActivations(self.modules, self._count)

    def default_for(self, argument: str, agent: RLModule) -> Any:
        """Return the modules that have hidden units."""
        return agent.networks_with_units() if argument == "modules" else super().default_for(argument, agent)

    def resolve(self, agent: RLModule) -> None:
        """Fill in the modules, for the counter too."""
        super().resolve(agent)
        self._counter.modules = self.modules

    def tags(self) -> frozenset[str]:
        """Return one tag for each module, and one for its layers."""
        return tags_by_module([self.prefix], self.modules, layers=self.per_layer)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse unknown modules, and those without hidden units, before training."""
        self.resolve(as_agent(pl_module))
        self._counter.refuse_unknown(as_agent(pl_module), "FractionActiveUnits.modules")

    def begin(self, agent: RLModule) -> None:
        """Hook the activation layers for one update."""
        if self.batch == "training":
            self._counter.start(agent)

    def measure(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> dict[str, Any]:
        """Remove the hooks and pool what was counted."""
        scalars: dict[str, Any] = {}
        for name, counts in self._counts(agent).items():
            for suffix, some in numbers_of_module(agent, name, counts).items():
                scalars[f"{self.prefix}/{name}{suffix}"] = self._pool(some.values())
            if self.per_layer:
                scalars |= {f"{self.prefix}/{name}/{layer}": self._pool([count]) for layer, count in counts.items()}
        return scalars

    @property
    def prefix(self) -> str:
        """First part of the tags."""
        if (self.definition, self.batch) == ("element_rate", "training"):
            return "fau"
        return f"fau_{self.definition}" + ("_probe_batch" if self.batch == "probe" else "")

    def headline(self) -> tuple[str, str] | None:
        """The published fraction stands in the progress bar and among the metrics of a run."""
        return ("FAU", "fau/{}") if self.prefix == "fau" else None

    def charts(self) -> Layout:
        """Return a chart of each module, and one of its layers."""
        which = "" if self.prefix == "fau" else f" ({self.prefix.removeprefix('fau_').replace('_', ' ')})"
        modules = {"Plasticity": each(self.modules, {f"Fraction of active units{which}": f"{self.prefix}/{{}}"})}
        layers = by_module(self.modules, f"Active units by layer{which}", f"{self.prefix}/{{}}/{ONE}")
        return {**modules, **(layers if self.per_layer else {})}

    def _counts(self, agent: RLModule) -> dict[str, dict[str, Any]]:
        if self.batch == "training":
            found = self._counter.stop()
        else:
            outputs = {name: agent.probe_activations(name, self.batch_size) for name in self.modules}
            found = {name: {path: self._count(output) for path, output in own.items()} for name, own in outputs.items()}
        if self.definition == "element_rate":
            return found
        layers = {name: agent.activation_layers(name) for name in found}
        return {
            name: {path: (rates_of_units(rates, layers[name][path]), bad) for path, (rates, bad) in own.items()}
            for name, own in found.items()
        }

    def _count(self, output: Tensor) -> Any:
        """Return what is counted in a layer, and whether it is finite, as NaN or 0: an update must not wait for it."""
        counted = active_and_total(output) if self.definition == "element_rate" else unit_rates(output)
        return counted, nan_unless_finite(output.new_zeros((), dtype=torch.float32), [output])

    def _pool(self, layers: Any) -> Tensor:
        counts, not_finite = zip(*layers, strict=True)
        if self.definition == "element_rate":
            value = pooled_fraction(counts)
        else:
            value = share_above(counts, self.threshold if self.definition == "mean_rate" else 0.0)
        return value + torch.stack(not_finite).sum()
