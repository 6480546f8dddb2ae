"""Distance of the weights from where they started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
from tensordict import TensorDictBase
from torch import Tensor, nn

from plasticity_rl.callback import as_agent
from plasticity_rl.measures import distance
from plasticity_rl.probes import WeightProbe
from plasticity_rl.rl_module import RLModule


class DistanceFromInit(WeightProbe):
    """Euclidean distance ``||theta - theta_0||`` of all parameters, after the update's step.

    ``theta_0`` are the weights with which the run started to be measured, and stays that: a reset shows as a jump. The
    copy is part of the checkpoint.

    Mutates: nothing.
    Logs: ``distance_from_init/<module>`` and, with ``per_layer``, ``distance_from_init/<module>/<layer>``; NaN once
        weights are not finite.
    Reference: the quantity that Kumar et al. 2023 (arXiv 2308.11958), Eq. 2, penalise, here without the square.

    Args:
        every_n_updates: Period in gradient updates.
        modules: Modules by dotted name.
        per_layer: Whether to log every layer as well.
    """

    def __init__(
        self,
        *,
        every_n_updates: int = 1000,
        modules: Sequence[str] = ("encoder", "actor", "critic"),
        per_layer: bool = True,
    ) -> None:
        super().__init__(every_n_updates=every_n_updates, modules=modules, per_layer=per_layer)
        self._initial: dict[str, Tensor] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse unknown modules, and forget the weights of an earlier run."""
        super().setup(trainer, pl_module, stage)
        self._initial = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy the weights, unless a checkpoint held the copy; after ``setup``, in which networks may still change."""
        if not self._initial:
            for name in self.modules:
                for key, parameter in as_agent(pl_module).module(name).named_parameters():
                    self._initial[f"{name}.{key}"] = parameter.detach().cpu().clone()

    def measure(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> dict[str, Any]:
        """Return the distances."""
        return self.scalars("distance_from_init", agent, self._distance)

    def _distance(self, parameters: Mapping[str, nn.Parameter]) -> Tensor:
        return distance(parameters.values(), [self._initial[name] for name in parameters])

    def state_dict(self) -> dict[str, Any]:
        """Return the events seen and the initial weights."""
        return {**super().state_dict(), "initial": dict(self._initial)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        super().load_state_dict(state_dict)
        self._initial = dict(state_dict["initial"])
