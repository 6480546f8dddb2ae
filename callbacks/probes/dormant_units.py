"""Share of dormant units of every module and layer, and whether they stay the same units."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from tensordict import TensorDictBase
from torch import Tensor

from plasticity_rl.agents.base import RLModule
from plasticity_rl.callback.charts import ONE, Layout, each
from plasticity_rl.callback.module_probes import ActivationProbe, numbers_of_module
from plasticity_rl.errors import UserError
from plasticity_rl.measures import NotFiniteError, dormancy_scores, overlap_coefficient
from plasticity_rl.measures.dormancy import mean_of_units


class DormantUnits(ActivationProbe):
    """Share of hidden ReLU units whose mean activation is at most ``tau`` of their layer's mean.

    On a batch of the replay without augmentation, after the update's step. A channel of a convolution is one unit, with
    ``CReLU`` or ``DeepFourierFeatures`` the mean over both outputs of a unit counts, as in ``ReDo``, and a module's
    share weighs every unit alike. The overlap ``|A & B| / min(|A|, |B|)`` compares a module's dormant set with that of
    the measurement before, and with the historical set: every unit that was dormant at any measurement before. It is 1
    for identical sets, 0 for disjoint ones and when one of the two is empty; the first measurement has none. The
    historical set only grows, so the overlap with it nears 1 in time even where no unit stays dormant: the one with the
    measurement before says whether they do.

    Mutates: nothing.
    Logs: ``dormant/<module>/tau_<tau>``, ``dormant/<module>/<layer>/tau_<tau>``, ``dormant_overlap/<module>/tau_<tau>``
        and ``dormant_overlap_history/<module>/tau_<tau>``, all in [0, 1]. While activations are not finite nothing is
        logged.
    Reference: Sokar et al. 2023 (arXiv 2302.12902), Definition 3.1, and section 3 for the overlap, there
        of the penultimate layer and here of all hidden layers of the module.
    Differences from the original: the overlaps are over all hidden layers of a module, with the set measured before and
        with the union of all sets before. With an empty set the overlap is 0.

    Args:
        every_n_updates: Period in gradient updates.
        modules: Modules by dotted name, each with a hidden ReLU layer; None for all that have one.
        taus: Thresholds, each >= 0.
        batch_size: Transitions in the probe batch.

    Raises:
        UserError: When there is no threshold or a negative one.
    """

    cuda_graph = "stays"
    example_arguments: ClassVar[Mapping[str, Any]] = {"every_n_updates": 3, "batch_size": 20}

    def __init__(
        self,
        *,
        every_n_updates: int = 1000,
        modules: Sequence[str] | None = None,
        taus: Sequence[float] = (0.0, 0.025, 0.1),
        batch_size: int = 256,
    ) -> None:
        super().__init__(every_n_updates=every_n_updates, modules=modules, batch_size=batch_size)
        if not taus or not all(tau >= 0 for tau in taus):
            raise UserError(f"DormantUnits.taus={list(taus)} must be one or more thresholds >= 0")
        self.taus = [float(tau) for tau in taus]
        self._previous: dict[str, Tensor] = {}
        self._history: dict[str, Tensor] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse modules without hidden units, and forget the dormant sets of an earlier run."""
        super().setup(trainer, pl_module, stage)
        self._previous, self._history = {}, {}

    def tags(self) -> frozenset[str]:
        """Return those of every module and threshold."""
        kinds = ("dormant/{}", "dormant/{}/*", "dormant_overlap/{}", "dormant_overlap_history/{}")
        return frozenset(
            f"{kind.format(name)}/tau_{tau}" for kind in kinds for name in self.modules for tau in self.taus
        )

    def charts(self) -> Layout:
        """Return charts for every threshold: of all modules, with events, and of the layers of each."""
        modules: dict[str, list[str]] = {}
        layers: dict[str, list[str]] = {}
        for tau in self.taus:
            of_tau = f"tau_{re.escape(str(tau))}"
            modules |= each(self.modules, {f"Dormant units (tau {tau})": f"dormant/{{}}/{of_tau}"})
            for name in self.modules:
                layers[f"{name} (tau {tau})"] = [f"dormant/{re.escape(name)}/{ONE}/{of_tau}"]
            overlaps = f"dormant_overlap(_history)?/{ONE}/{of_tau}"
            layers[f"Overlap with the dormant units before (tau {tau})"] = [overlaps]
        return {"Plasticity": modules, "Dormant units by layer": layers}

    def measure(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> dict[str, Any]:
        """Return shares and overlaps of every module."""
        scalars: dict[str, Any] = {}
        for name in self.modules:
            activations, layers = agent.probe_activations(name, self.batch_size), agent.activation_layers(name)
            means = {layer: mean_of_units(output.float(), layers[layer]) for layer, output in activations.items()}
            try:
                scores = {layer: dormancy_scores(mean[None]).cpu() for layer, mean in means.items()}
            except NotFiniteError:
                continue
            for tau in self.taus:
                scalars |= self._of_module(agent, name, scores, tau)
        return scalars

    def _of_module(self, agent: RLModule, name: str, scores: Mapping[str, Tensor], tau: float) -> dict[str, Any]:
        masks = {layer: score <= tau for layer, score in scores.items()}
        parts = {
            suffix: torch.cat(list(some.values())) for suffix, some in numbers_of_module(agent, name, masks).items()
        }
        scalars: dict[str, Any] = {f"dormant/{name}{end}/tau_{tau}": some.float().mean() for end, some in parts.items()}
        scalars |= {f"dormant/{name}/{layer}/tau_{tau}": mask.float().mean() for layer, mask in masks.items()}
        key, joined = f"{name}/tau_{tau}", parts[""]
        if key in self._previous and self._previous[key].shape != joined.shape:
            # Of a checkpoint written when a module's number was made of other layers, as before an injection's parts,
            # or of outputs instead of units.
            del self._previous[key], self._history[key]
        if key in self._previous:
            scalars[f"dormant_overlap/{key}"] = overlap_coefficient(joined, self._previous[key])
            scalars[f"dormant_overlap_history/{key}"] = overlap_coefficient(joined, self._history[key])
        self._history[key] = joined | self._history.get(key, joined)
        self._previous[key] = joined
        return scalars

    def state_dict(self) -> dict[str, Any]:
        """Return the events seen, the last dormant sets and the historical ones."""
        return {**super().state_dict(), "previous": dict(self._previous), "history": dict(self._history)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        super().load_state_dict(state_dict)
        self._previous, self._history = dict(state_dict["previous"]), dict(state_dict["history"])
