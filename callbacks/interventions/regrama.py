"""Recycle hidden units that hardly receive any gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from torch import Tensor

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.callback import UpdateIntervention
from plasticity_rl.callback.gradient_probes import (
    activation_gradients,
    modules_by_loss,
    probe_generator,
    refuse_without,
)
from plasticity_rl.callback.recycling import RecyclesUnits
from plasticity_rl.distributed.ranks import over_ranks
from plasticity_rl.errors import at_least, within
from plasticity_rl.measures import NotFiniteError, gradient_dormancy_scores
from plasticity_rl.measures.dormancy import mean_of_units
from plasticity_rl.nn.units import UnitLayer


class ReGraMa(RecyclesUnits, UpdateIntervention):
    """Give hidden units with hardly any gradient fresh incoming weights and silent outgoing ones.

    A unit's score is the mean absolute gradient of the loss that trains its module with respect to its output, over a
    batch, over space and over the two outputs of a CReLU, divided by the mean of its layer; it is recycled at ``tau``
    or below. What is measured is how much a unit can learn, not how much it says: one that puts out zero but would be
    listened to is kept, one that nothing reads is not. The probe ``GradientDormancy`` logs the share of units by the
    same scores. Recycling is that of ReDo: incoming weights from the layer's initialisation, bias 0, outgoing weights 0
    in every layer that reads the unit. Outputs are never recycled.

    Mutates: incoming weights, biases and outgoing weights of the recycled units, and their optimizer moments (to zero;
        step counts stay); in the target network the incoming weights become the online ones, the outgoing ones zero. A
        LayerNorm before the activation counts among the incoming weights.
    Logs: ``intervention/regrama`` (1 when it acted), ``intervention/regrama/recycled/<module>`` (units) and a line of
        text.
    Reference: Liu et al. 2025 (arXiv 2505.24061), GraMa and ReGraMa: tau 0.01 and a period of 1000 updates with
        BRO-net, tau 0 with variants of SAC; they reset the parameters of norms too.
    Differences from the original: in the authors' code for SAC (critics only; read in a fork) a unit's score is the
        mean absolute gradient of the weights that it reads, averaged over the update's batch before the absolute value
        is taken. There only incoming weights and biases are drawn anew, and a norm's gain and bias set back by scores
        of their own; outgoing weights, moments and the target stay as they are. Here the gradient is that on a batch of
        the replay of its own, without augmentation and without the terms of regularizers, of a size of this project,
        and recycling is that of ``ReDo`` here, in the target network too. A layer that no gradient reaches, whose score
        is 0/0, is left alone; there all of its units are drawn anew.

    Args:
        modules: Modules by dotted name: ``encoder``, ``actor``, ``critic``, or a part such as ``critic.Q1``;
            None for all networks of the agent.
        tau: Threshold of the score, in [0, 1); 0 for units without any gradient.
        every_n_updates: Period in gradient updates.
        batch_size: Transitions that the gradient is averaged over.

    Raises:
        UserError: When ``tau`` or ``batch_size`` is out of range, or the agent has no losses to look at.
    """

    reads = frozenset({"gradients"})
    writes = frozenset({"jump", "fresh units", "optimizer"})
    cuda_graph = "stays"
    incompatible_with: ClassVar[Mapping[str, str]] = {
        "PruneDormant": "a unit that one has pruned receives no gradient, and the other would renew it"
    }
    example_arguments: ClassVar[Mapping[str, Any]] = {"tau": 0.5, "every_n_updates": 3, "batch_size": 8}
    inert_arguments: ClassVar[Mapping[str, Any]] = {"every_n_updates": 10**12}

    def __init__(
        self,
        *,
        modules: Sequence[str] | None = None,
        tau: float = 0.01,
        every_n_updates: int = 1000,
        batch_size: int = 256,
    ) -> None:
        super().__init__(every_n_updates=every_n_updates)
        within("ReGraMa.tau", tau, "[0, 1)", ": at 1 a unit with average gradient is recycled")
        at_least("ReGraMa.batch_size", batch_size, 1)
        self.modules = self.named_or_open(modules, ("encoder", "actor", "critic"))
        self.tau, self.batch_size = tau, batch_size

    @property
    def name(self) -> str:
        """``regrama``, one word as in the paper."""
        return "regrama"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse modules without hidden units, and agents without losses to look at."""
        super().setup(trainer, pl_module, stage)
        refuse_without(as_agent(pl_module), "loss_on", self)

    def act(self, agent: RLModule) -> str:
        """Score all layers first, then recycle."""
        return self.recycle(agent, self.find_inactive(agent))

    def find_inactive(self, agent: RLModule) -> dict[str, dict[str, tuple[UnitLayer, Tensor]]]:
        """Return the units to recycle: module, name of the unit layer, the layer and a bool mask ``(n,)``."""
        probed, found = agent.probe_batch(self.batch_size), dict[str, dict[str, tuple[UnitLayer, Tensor]]]()
        for loss, names in modules_by_loss(agent, self.modules).items():
            units = {(name, layer.name): layer for name in names for layer in agent.units(name)}
            activations = {key: layer.activation for key, layer in units.items()}
            noise = probe_generator(agent, f"intervention/{self.state_key}")
            for (name, path), gradient in activation_gradients(agent, loss, activations, probed, noise).items():
                layer = units[name, path]
                found.setdefault(name, {})[path] = (layer, self._inactive(agent, layer, gradient))
        return {name: found.get(name, {}) for name in self.modules}

    def _inactive(self, agent: RLModule, layer: UnitLayer, gradient: Tensor) -> Tensor:
        """Return which units are recycled; none while gradients are not finite, or where none reaches the layer."""
        mean = over_ranks(agent, mean_of_units(gradient.double(), layer.activation))
        try:
            # Where no gradient reaches a layer at all, what reads it is to blame, and not one of its units.
            return (gradient_dormancy_scores(mean[None]) <= self.tau) & mean.any()
        except NotFiniteError:
            return torch.zeros_like(mean, dtype=torch.bool)
