"""Keep the rows of hidden weight matrices orthogonal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from tensordict import TensorDictBase
from torch import Tensor

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.callback import Regularizer
from plasticity_rl.errors import within
from plasticity_rl.losses import parseval_penalty
from plasticity_rl.nn.layers import LEARNS, hidden_weight_layers
from plasticity_rl.nn.weight_transforms import weight_in_use

TUNED_WIDTH = 64
"""Units of a layer for which the coefficient holds as it is."""


class ParsevalRegularization(Regularizer):
    """Add ``coefficient * sum (64 / n)^2 ||W W^T - scale * I||_F^2`` to a loss, over the matrices of hidden layers.

    n is the number of rows of W, the units of its layer: the norm is a sum over n^2 products of rows, and the
    coefficient was tuned for layers of 64 units. A layer counts as hidden when a norm or a hidden activation follows
    it; output layers are free. W is the weight that a layer computes with: without pruned weights, divided by a
    spectral norm. Of an injected head the added one counts.

    Mutates: nothing by itself; adds a term to the loss named ``loss``. With coefficient 0 no term is added.
    Logs: ``intervention/parseval_regularization/<modules>/loss``, the term as added;
        ``intervention/parseval_regularization/loss``, the sum over all of this name.
    Reference: Chung et al. 2024 (arXiv 2412.07224), whose code has the factor of the width; coefficient 1e-3
        (Gridworld; MetaWorld, with a layer of learned scales after each matrix) or 1e-4 (LunarLander, Quadruped), scale
        2, which is the square of the initial gain.
    Differences from the original: by default on the critic alone, where theirs is on actor and critic, and with scale
        1, which is the square of the initial gain of linear layers here. Convolution kernels, flattened to ``(out, in *
        height * width)``, count too. Where a layer has more outputs than inputs, a constant that no weight can remove
        is part of the term, as in the formula.

    Args:
        coefficient: Weight of the term for layers of 64 units, >= 0.
        scale: Wanted squared norm of every row, > 0. Linear layers of DrQ-v2 and SAC start at 1, where they have no
            more outputs than inputs; convolutions of DrQ-v2 at 2, so give 2 for its encoder.
        modules: Modules by dotted name.
        loss: Loss that the term is added to: ``critic`` (which also trains the encoder) or ``actor``.
    """

    reads = frozenset({"weights"})
    cuda_graph = "inside"
    example_arguments: ClassVar[Mapping[str, Any]] = {"coefficient": 0.1}
    inert_arguments: ClassVar[Mapping[str, Any]] = {"coefficient": 0.0}

    def __init__(
        self,
        *,
        coefficient: float = 1e-3,
        scale: float = 1.0,
        modules: Sequence[str] | None = None,
        loss: str | None = None,
    ) -> None:
        super().__init__(coefficient=coefficient, modules=modules, loss=loss)
        within("ParsevalRegularization.scale", scale, "(0, inf]")
        self.scale = scale

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse modules without hidden layers before anything is trained."""
        super().setup(trainer, pl_module, stage)
        self._weights(as_agent(pl_module))

    def _weights(self, agent: RLModule) -> list[Tensor]:
        activations = [layer for name in self.modules for layer in agent.activation_layers(name, LEARNS).values()]
        layers = hidden_weight_layers({name: agent.module(name) for name in self.modules}, activations, LEARNS)
        return [weight_in_use(layer).flatten(1) for layer in layers.values()]

    def penalty(self, agent: RLModule, batch: TensorDictBase) -> Tensor:
        """Return ``sum (64 / n)^2 ||W W^T - scale * I||_F^2``, n the rows of W."""
        penalties = [(TUNED_WIDTH / len(w)) ** 2 * parseval_penalty([w], self.scale) for w in self._weights(agent)]
        return torch.stack(penalties).sum()
