"""L2 penalty on weights, as a term of a loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
from tensordict import TensorDictBase
from torch import Tensor

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.callback import Regularizer
from plasticity_rl.losses import squared_norm
from plasticity_rl.nn.layers import LEARNS, weight_layers
from plasticity_rl.nn.weight_transforms import weight_in_use


class WeightDecay(Regularizer):
    """Add ``coefficient * sum ||W||^2`` to a loss, over the weights of linear and convolutional layers.

    W is the weight that a layer computes with (without pruned weights, divided by a spectral norm). Of an injected head
    the added one counts, which learns.

    Mutates: nothing by itself; adds a term to the loss named ``loss``. With coefficient 0 no term is added.
    Logs: ``intervention/weight_decay/<modules>/loss``, the term as added;
        ``intervention/weight_decay/loss``, the sum over all of this name.
    Reference: coefficient 1e-5 as in Ma et al. 2024 (arXiv 2310.07418), Appendix B.3, who state neither the networks
        nor whether the decay is coupled.
    Differences from the original: coupled, that is, its gradient ``2 * coefficient * W`` passes through Adam, unlike
        AdamW; the optimizer argument ``weight_decay`` has half that gradient. Biases and norm layers are left out.

    Args:
        coefficient: Weight of the term, >= 0.
        modules: Modules by dotted name.
        loss: Loss that the term is added to: ``critic`` (which also trains the encoder) or ``actor``.
    """

    reads = frozenset({"weights"})
    cuda_graph = "inside"
    example_arguments: ClassVar[Mapping[str, Any]] = {"coefficient": 0.01}
    inert_arguments: ClassVar[Mapping[str, Any]] = {"coefficient": 0.0}

    def __init__(
        self, *, coefficient: float = 1e-5, modules: Sequence[str] | None = None, loss: str | None = None
    ) -> None:
        super().__init__(coefficient=coefficient, modules=modules, loss=loss)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse modules without weights before anything is trained."""
        super().setup(trainer, pl_module, stage)
        self._weights(as_agent(pl_module))

    def _weights(self, agent: RLModule) -> list[Tensor]:
        layers = weight_layers({name: agent.module(name) for name in self.modules}, LEARNS)
        return [weight_in_use(layer) for layer in layers.values()]

    def penalty(self, agent: RLModule, batch: TensorDictBase) -> Tensor:
        """Return ``sum ||W||^2``."""
        return squared_norm(self._weights(agent))
