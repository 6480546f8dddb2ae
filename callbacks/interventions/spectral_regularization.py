"""Keep the largest singular value of every weight matrix near one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torch.nn import functional as F

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.agents.jumps import Jump
from plasticity_rl.callback import Regularizer
from plasticity_rl.errors import within
from plasticity_rl.losses import largest_singular_value, spectral_penalty
from plasticity_rl.nn.layers import EVERYWHERE, LEARNS, Part, weight_layers
from plasticity_rl.nn.weight_transforms import weight_in_use
from plasticity_rl.rng import derive_seed

FIRST_ITERATIONS = 10
"""Power iterations before training starts, and on fresh weights; one per update follows."""


class SpectralRegularization(Regularizer):
    """Add ``coefficient * sum (sigma_max(W)^exponent - 1)^2`` to a loss, over linear and convolutional layers.

    sigma_max comes from one power iteration per update, started at the singular vector of the update before. W is the
    weight that a layer computes with: without pruned weights. (Divided by a spectral norm, its sigma_max is 1 and the
    term 0.) Of an injected head the added one counts.

    Mutates: nothing by itself; adds a term to the loss named ``loss``. With coefficient 0 no term is added.
    Logs: ``intervention/spectral_regularization/<modules>/loss``, the term as added;
        ``intervention/spectral_regularization/loss``, the sum over all of this name.
    Reference: Lewandowski et al. 2024 (arXiv 2406.06811), exponent 2.
    Differences from the original: the terms of biases and norm layers are left out. Convolution kernels are
        flattened to ``(out, in * height * width)``. DrQ-v2's convolutions start at sigma_max = sqrt(2), so their
        term is 1 at first.

    Args:
        coefficient: Weight of the term, >= 0.
        exponent: Power k of sigma_max, > 0.
        modules: Modules by dotted name.
        loss: Loss that the term is added to: ``critic`` (which also trains the encoder) or ``actor``.
    """

    reads = frozenset({"weights", "estimates"})
    cuda_graph = "inside"
    example_arguments: ClassVar[Mapping[str, Any]] = {"coefficient": 0.1}
    inert_arguments: ClassVar[Mapping[str, Any]] = {"coefficient": 0.0}

    def __init__(
        self,
        *,
        coefficient: float = 1e-4,
        exponent: float = 2.0,
        modules: Sequence[str] | None = None,
        loss: str | None = None,
    ) -> None:
        super().__init__(coefficient=coefficient, modules=modules, loss=loss)
        within("SpectralRegularization.exponent", exponent, "(0, inf]")
        self.exponent = exponent
        self._left: dict[str, Tensor] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find a first singular vector of every matrix, from numbers that no one else draws."""
        super().setup(trainer, pl_module, stage)
        agent = as_agent(pl_module)
        generator = torch.Generator().manual_seed(derive_seed(agent.rng.seed, f"intervention/{self.state_key}"))
        for name, layer in self._layers(agent, EVERYWHERE).items():
            weight = _matrix(layer).detach()
            left = F.normalize(torch.randn(len(weight), generator=generator), dim=0).to(weight.device)
            for _ in range(FIRST_ITERATIONS):
                left = largest_singular_value(weight, left)[1]
            self._left[name] = left

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the term, and follow the weights to their device."""
        super().on_fit_start(trainer, pl_module)
        layers = self._layers(as_agent(pl_module), EVERYWHERE)
        self._left = {name: left.to(_matrix(layers[name]).device) for name, left in self._left.items()}

    def _layers(self, agent: RLModule, parts: Collection[Part] = LEARNS) -> dict[str, nn.Module]:
        return weight_layers({name: agent.module(name) for name in self.modules}, parts)

    def penalty(self, agent: RLModule, batch: TensorDictBase) -> Tensor:
        """Return ``sum (sigma_max^exponent - 1)^2``, and keep the singular vectors for the next update."""
        sigmas = []
        for name, layer in self._layers(agent).items():
            sigma, following = largest_singular_value(_matrix(layer), self._left[name])
            self._left[name].copy_(following)  # in place: a captured update goes on from there
            sigmas.append(sigma)
        return spectral_penalty(sigmas, self.exponent)

    def on_weights_jumped(self, agent: RLModule, jump: Jump) -> None:
        """Let the singular vectors catch up with weights that jumped."""
        for name, layer in self._layers(agent).items():
            if name in self._left and f"{name}.weight" in jump.elements:
                for _ in range(FIRST_ITERATIONS):
                    self._left[name] = largest_singular_value(_matrix(layer).detach(), self._left[name])[1]

    def state_dict(self) -> dict[str, Any]:
        """Return the singular vectors."""
        return {"left": dict(self._left)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them."""
        self._left = dict(state_dict["left"])


def _matrix(layer: nn.Module) -> Tensor:
    return weight_in_use(layer).flatten(1)
