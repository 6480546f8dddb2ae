"""Regenerative regularization: pull weights towards their initial values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from plasticity_rl.callback import Regularizer, as_agent
from plasticity_rl.layers import NORM_LAYERS
from plasticity_rl.losses import squared_distance
from plasticity_rl.rl_module import RLModule


class L2Init(Regularizer):
    """Add ``coefficient * sum ||theta - theta_0||^2`` to a loss, theta_0 being the initial weights.

    Mutates: nothing by itself; adds a term to the loss named ``loss``. A module that is reset takes its fresh weights
        as the new theta_0. With coefficient 0 no term is added.
    Logs: ``intervention/l2_init/<modules>/loss``, the term as added;
        ``intervention/l2_init/loss``, the sum over all of this name.
    Reference: Kumar et al. 2023 (arXiv 2308.11958), Eq. 2; coefficient 1e-2 on the critic loss as in Ma et al. 2024
        (arXiv 2310.07418), Appendix B.3.
    Differences from the original: norm layers are left out, as in the authors' code; their code has a factor
        1/2 that the formula lacks, and this follows the formula.

    Args:
        coefficient: Weight of the term, >= 0.
        modules: Modules by dotted name whose weights and biases are regularised.
        loss: Loss that the term is added to: ``critic`` (which also trains the encoder) or ``actor``.
    """

    example_arguments: ClassVar[Mapping[str, Any]] = {"coefficient": 0.01}
    inert_arguments: ClassVar[Mapping[str, Any]] = {"coefficient": 0.0}

    def __init__(
        self, *, coefficient: float = 1e-2, modules: Sequence[str] | None = None, loss: str | None = None
    ) -> None:
        super().__init__(coefficient=coefficient, modules=modules, loss=loss)
        self._current: dict[str, nn.Parameter] = {}
        self._initial: dict[str, Tensor] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Keep a copy of the initial weights, before any update."""
        super().setup(trainer, pl_module, stage)
        agent = as_agent(pl_module)
        for name in self.modules:
            for path, layer in agent.module(name).named_modules():
                if not isinstance(layer, NORM_LAYERS):
                    for key, parameter in layer.named_parameters(recurse=False):
                        self._current[f"{name}.{path}.{key}"] = parameter
        self._initial = {name: p.detach().clone() for name, p in self._current.items()}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the term, and follow the weights to their device."""
        super().on_fit_start(trainer, pl_module)
        self._initial = {name: value.to(self._current[name].device) for name, value in self._initial.items()}

    def penalty(self, agent: RLModule, batch: TensorDictBase) -> Tensor:
        """Return ``sum ||theta - theta_0||^2``."""
        return squared_distance(self._current.values(), self._initial.values())

    @torch.no_grad()
    def on_reinitialize(self, agent: RLModule, parameters: Sequence[Tensor]) -> None:
        """Take fresh weights as the new origin."""
        fresh = {id(parameter) for parameter in parameters}
        for name, parameter in self._current.items():
            if id(parameter) in fresh:
                self._initial[name].copy_(parameter)

    def state_dict(self) -> dict[str, Any]:
        """Return theta_0."""
        return {"initial": dict(self._initial)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore theta_0."""
        self._initial = dict(state_dict["initial"])
