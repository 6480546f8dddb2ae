"""Fraction of active units (FAU) of encoder, actor and critic on the training batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
from tensordict import TensorDictBase

from plasticity_rl.active_units import ActiveUnitCounter
from plasticity_rl.callback import Probe, as_agent
from plasticity_rl.measures import pooled_fraction
from plasticity_rl.rl_module import RLModule


class FractionActiveUnits(Probe):
    """Share of hidden ReLU outputs above zero, per module and per layer, by element (the published definition).

    Measured as the authors do: on the training batch of an update (augmented when augmentation is on), online networks,
    before the optimizer step. Each layer is read at its first pass with gradient: the encoder on the current
    observations, the critic in its own loss, the actor in its own loss.

    Mutates: nothing.
    Logs: ``fau/<module>`` and, with ``per_layer``, ``fau/<module>/<layer>``, in [0, 1]; about 0.5 at initialisation.
    Reference: Ma et al. 2024 (arXiv 2310.07418), section 3. Layers: the encoder's 4 convolutions, the actor's 2 hidden
        layers, the critic's 2 hidden layers in both heads; trunk (tanh) and outputs have no ReLU and do not count.

    Args:
        every_n_updates: Period in gradient updates.
        modules: Modules by dotted name.
        per_layer: Whether to log every layer as well.
    """

    example_arguments: ClassVar[Mapping[str, Any]] = {"every_n_updates": 3}

    def __init__(
        self,
        *,
        every_n_updates: int = 100,
        modules: Sequence[str] = ("encoder", "actor", "critic"),
        per_layer: bool = True,
    ) -> None:
        super().__init__(every_n_updates=every_n_updates)
        self.modules, self.per_layer = list(modules), per_layer
        self._counter = ActiveUnitCounter(self.modules)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse unknown modules, and those without hidden units, before training."""
        self._counter.refuse_unknown(as_agent(pl_module), "FractionActiveUnits.modules")

    def begin(self, agent: RLModule) -> None:
        """Hook the activation layers for one update."""
        self._counter.start(agent)

    def measure(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> dict[str, Any]:
        """Remove the hooks and pool the counts by element."""
        scalars: dict[str, Any] = {}
        for name, counts in self._counter.stop().items():
            scalars[f"fau/{name}"] = pooled_fraction(counts.values())
            if self.per_layer:
                scalars |= {f"fau/{name}/{layer}": active / total for layer, (active, total) in counts.items()}
        return scalars
