"""Share of hidden units that hardly receive any gradient."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from tensordict import TensorDictBase
from torch import Tensor

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.callback.charts import Layout, each
from plasticity_rl.callback.gradient_probes import (
    activation_gradients,
    modules_by_loss,
    probe_generator,
    refuse_without,
)
from plasticity_rl.callback.module_probes import ActivationProbe, numbers_of_module
from plasticity_rl.errors import UserError
from plasticity_rl.measures import NotFiniteError, gradient_dormancy_scores
from plasticity_rl.measures.dormancy import mean_of_units
from plasticity_rl.nn.layers import LEARNS


class GradientDormancy(ActivationProbe):
    """Share of hidden units whose mean absolute gradient is at most ``tau`` of their layer's mean (GraMa).

    The gradient is that of the loss which trains the module, without augmentation and without the terms of
    regularizers, with respect to the units' outputs, on a batch of the replay after the update's step. A channel of a
    convolution is one unit, with ``CReLU`` or ``DeepFourierFeatures`` the mean over both outputs of a unit counts, as
    in ``ReGraMa``, and a module's share weighs every unit alike; after an injection of plasticity it is that
    of the added heads, which learn. A module that no loss trains is measured on the agent's first loss. A unit that
    puts out zero can still have a gradient at its output; it then is not dormant.

    Mutates: nothing.
    Logs: ``gradient_dormancy/<module>/tau_<tau>`` and, with ``per_layer``,
        ``gradient_dormancy/<module>/<layer>/tau_<tau>``, in [0, 1]. While gradients are not finite nothing is logged.
    Reference: Liu et al. 2025 (arXiv 2505.24061), GraMa; their thresholds are 0 and 0.01.
    Differences from the original: on a batch without augmentation, and without the terms of regularizers. In the
        authors' code for SAC the gradient is that of the weights that a unit reads, averaged over the batch before its
        absolute value is taken.

    Args:
        every_n_updates: Period in gradient updates.
        modules: Modules by dotted name, each with a hidden activation layer; None for all that have one.
        taus: Thresholds, each >= 0.
        per_layer: Whether to log every layer as well.
        batch_size: Transitions in the probe batch.

    Raises:
        UserError: When there is no threshold or a negative one.
    """

    reads = frozenset({"gradients"})
    cuda_graph = "stays"
    example_arguments: ClassVar[Mapping[str, Any]] = {"every_n_updates": 4, "batch_size": 8}

    def __init__(
        self,
        *,
        every_n_updates: int = 2000,
        modules: Sequence[str] | None = None,
        taus: Sequence[float] = (0.0, 0.01),
        per_layer: bool = True,
        batch_size: int = 256,
    ) -> None:
        super().__init__(every_n_updates=every_n_updates, modules=modules, batch_size=batch_size)
        if not taus or not all(tau >= 0 for tau in taus):
            raise UserError(f"GradientDormancy.taus={list(taus)} must be one or more thresholds >= 0")
        self.taus, self.per_layer = [float(tau) for tau in taus], per_layer

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse modules without hidden units, and agents without losses to look at."""
        super().setup(trainer, pl_module, stage)
        refuse_without(as_agent(pl_module), "loss_on", self)

    def tags(self) -> frozenset[str]:
        """Return those of every module and threshold."""
        kinds = ["gradient_dormancy/{}", *(["gradient_dormancy/{}/*"] if self.per_layer else [])]
        return frozenset(
            f"{kind.format(name)}/tau_{tau}" for kind in kinds for name in self.modules for tau in self.taus
        )

    def charts(self) -> Layout:
        """Return a chart of each module for every threshold."""
        title, tag = "Units with hardly any gradient (tau {})", "gradient_dormancy/{{}}/tau_{}"
        titles = {title.format(tau): tag.format(re.escape(str(tau))) for tau in self.taus}
        return {"Linear units, and units without gradient": each(self.modules, titles)}

    def measure(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> dict[str, Any]:
        """Return the shares, from one backward pass per loss."""
        probed = agent.probe_batch(self.batch_size)
        scalars: dict[str, Any] = {}
        for loss, names in modules_by_loss(agent, self.modules).items():
            layers = {(name, path): layer for name in names for path, layer in agent.activation_layers(name).items()}
            gradients = activation_gradients(agent, loss, layers, probed, probe_generator(agent, "noise"))
            for name in names:
                means = {
                    path: mean_of_units(gradient.double(), layers[module, path])
                    for (module, path), gradient in gradients.items()
                    if module == name
                }
                scalars |= self._of_module(agent, name, means)
        return scalars

    def _of_module(self, agent: RLModule, name: str, means: Mapping[str, Tensor]) -> dict[str, Any]:
        try:
            scores = {layer: gradient_dormancy_scores(mean[None]) for layer, mean in means.items()}
        except NotFiniteError:
            return {}
        scalars: dict[str, Any] = {}
        for tau in self.taus if scores else ():
            masks = {layer: score <= tau for layer, score in scores.items()}
            learning = numbers_of_module(agent, name, masks, LEARNS)[""].values()
            scalars[f"gradient_dormancy/{name}/tau_{tau}"] = torch.cat(list(learning)).float().mean()
            for layer, mask in masks.items() if self.per_layer else ():
                scalars[f"gradient_dormancy/{name}/{layer}/tau_{tau}"] = mask.float().mean()
        return scalars
