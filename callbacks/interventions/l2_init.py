"""Regenerative regularization: pull weights towards their initial values."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.agents.jumps import Jump
from plasticity_rl.callback import Regularizer
from plasticity_rl.losses import squared_distance
from plasticity_rl.nn.layers import EVERYWHERE, LEARNS, NORM_LAYERS, Part
from plasticity_rl.nn.weight_transforms import masks_of, parameters_in_use


class L2Init(Regularizer):
    """Add ``coefficient * sum ||theta - theta_0||^2`` to a loss, theta_0 being the initial weights.

    theta are weights as the layers compute with them, divided by a spectral norm; while one is pruned it counts for
    nothing, whatever it was at first. Of an injected head the added one counts.

    Mutates: nothing by itself; adds a term to the loss named ``loss``. A module that is reset takes its fresh weights
        as the new theta_0, and what ``PruneDormant`` keeps at zero gets zero; any other jump of weights (a soft reset,
        a recycled unit) leaves it. With coefficient 0 no term is added.
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

    reads = frozenset({"weights", "estimates"})
    cuda_graph = "inside"
    example_arguments: ClassVar[Mapping[str, Any]] = {"coefficient": 0.01}
    inert_arguments: ClassVar[Mapping[str, Any]] = {"coefficient": 0.0}

    def __init__(
        self, *, coefficient: float = 1e-2, modules: Sequence[str] | None = None, loss: str | None = None
    ) -> None:
        super().__init__(coefficient=coefficient, modules=modules, loss=loss)
        self._initial: dict[str, Tensor] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Keep a copy of the initial weights, before any update."""
        super().setup(trainer, pl_module, stage)
        weights = self._weights(as_agent(pl_module), EVERYWHERE)
        self._initial = {name: value.detach().clone() for name, value in weights.items()}

    def _weights(self, agent: RLModule, parts: Collection[Part] = LEARNS) -> dict[str, Tensor]:
        """Return weights as the layers compute with them, and biases, by dotted name."""
        return {
            f"{path}.{key}": value
            for path, layer in self._layers(agent, parts).items()
            for key, value in parameters_in_use(layer).items()
        }

    def _layers(self, agent: RLModule, parts: Collection[Part] = LEARNS) -> dict[str, nn.Module]:
        return {
            f"{name}.{path}".rstrip("."): layer
            for name in self.modules
            for path, layer in agent.submodules(name, parts).items()
            if not isinstance(layer, NORM_LAYERS)
        }

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the term, and follow the weights to their device."""
        super().on_fit_start(trainer, pl_module)
        self._initial = {name: value.to(pl_module.device) for name, value in self._initial.items()}

    def penalty(self, agent: RLModule, batch: TensorDictBase) -> Tensor:
        """Return ``sum ||theta - theta_0||^2``."""
        weights = self._weights(agent)
        origins = {name: self._initial[name] for name in weights}
        for path, layer in self._layers(agent).items():
            for mask in masks_of(layer):
                # What was pruned since is held at zero: how far that is from its start, no learning can change.
                origins[f"{path}.weight"] = mask(origins[f"{path}.weight"])
        return squared_distance(weights.values(), origins.values())

    @torch.no_grad()
    def on_weights_jumped(self, agent: RLModule, jump: Jump) -> None:
        """Take layers that are fresh as a whole for the new origin, and zero of what is kept there; no other jump."""
        for name, value in self._weights(agent).items():
            if name in jump.renewed:
                self._initial[name].copy_(value)
        for name in self._initial.keys() & jump.held.keys():
            self._initial[name].masked_fill_(jump.held[name], 0.0)

    def state_dict(self) -> dict[str, Any]:
        """Return theta_0."""
        return {"initial": dict(self._initial)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore theta_0."""
        self._initial = dict(state_dict["initial"])
