"""Contrastive learning beside the critic's loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torch.func import functional_call

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.augment.transforms import random_shift, refuse_large_shift
from plasticity_rl.callback import Regularizer
from plasticity_rl.callback.contrastive import BilinearProduct, Embedding, info_nce, move_towards
from plasticity_rl.errors import UserError, at_least, within


class CURL(Regularizer):
    """Add a contrastive loss, so that two shifts of one observation are told apart from the batch's other observations.

    Each sampled observation is shifted twice. Query ``q = projection(encoder(first))`` with the weights that are
    trained, key ``k`` likewise of the second with a moving average of them; the term is ``coefficient`` times the
    cross-entropy of ``softmax_j(q_i^T W k_j)`` with i as the right answer. W is trained with the encoder, from fresh
    numbers in [0, 1). So "does self-supervision add to augmentation" is this beside an agent with augmentation on.

    Mutates: nothing by itself; adds a term to the loss named ``loss`` and the parameter
        ``extras.curl_<projection>.weight`` to the optimizer of the encoder. The moving average starts at the initial
        weights, takes a step after every update, and jumps where another intervention lets weights jump.
        With coefficient 0 there is neither term nor parameter.
    Logs: ``intervention/curl/<modules>/loss``, the term as added;
        ``intervention/curl/loss``, the sum over all of this name.
    Reference: Laskin et al. 2020 (arXiv 2004.04136), Eq. 4; encoder_tau 0.05 as in the authors' code.
    Differences from the original: random shifts of the whole image instead of crops of a larger one. The compared
        vectors are the output of the critic's trunk, tanh included; theirs come before the tanh. One loss and one step
        of the agent's optimizers, at its learning rate, instead of two further ones at 1e-3; the average moves at every
        update, not at every second. The other observations of all processes are negatives.

    Args:
        coefficient: Weight of the term, >= 0.
        encoder: Module that turns pixels into features.
        projection: Module that turns features into the vectors compared, or None for the features themselves; in DQN
            ``critic.advantage.0``, the first layer behind the encoder.
        encoder_tau: Step of the moving average of encoder and projection per update, in (0, 1].
        random_shift_pad: Largest shift in pixels, >= 1.
        loss: Loss that the term is added to; it must train the encoder.
    """

    reads = frozenset({"copy"})
    cuda_graph = "inside"
    needs_pixels = True
    example_arguments: ClassVar[Mapping[str, Any]] = {"coefficient": 0.5, "random_shift_pad": 2}
    inert_arguments: ClassVar[Mapping[str, Any]] = {"coefficient": 0.0}

    def __init__(
        self,
        *,
        coefficient: float = 1.0,
        encoder: str = "encoder",
        projection: str | None = "critic.trunk",
        encoder_tau: float = 0.05,
        random_shift_pad: int = 4,
        loss: str = "critic",
    ) -> None:
        modules = [encoder] if projection is None else [encoder, projection]
        super().__init__(coefficient=coefficient, modules=modules, loss=loss)
        within("CURL.encoder_tau", encoder_tau, "(0, 1]", "; published: 0.05")
        at_least("CURL.random_shift_pad", random_shift_pad, 1, ", or both views are the same image")
        self.encoder, self.projection = encoder, projection
        self.encoder_tau, self.random_shift_pad = encoder_tau, random_shift_pad
        self._fast: dict[str, nn.Parameter] = {}
        self._slow: dict[str, Tensor] = {}

    @property
    def _extra(self) -> str:
        return f"curl_{(self.projection or self.encoder).replace('.', '_')}"

    @property
    def builds(self) -> bool:
        """Whether there is anything to add."""
        return self.coefficient > 0

    def claims(self, agent: RLModule) -> frozenset[str]:
        """Only one of these per projection."""
        return frozenset({f"add the module extras.{self._extra}"}) if self.coefficient > 0 else frozenset()

    def build(self, agent: RLModule) -> None:
        """Add W to the optimizer that trains the encoder."""
        if self.loss not in agent.loss_optimizers:
            losses = list(agent.loss_optimizers)
            raise UserError(f"CURL.loss={self.loss!r}: there is no such loss in {type(agent).__name__}, but {losses}")
        self._refuse_unknown(agent)
        refuse_large_shift(self.random_shift_pad, agent.data.obs_shape, "CURL.random_shift_pad")
        dim = Embedding(agent, self.projection).dim(agent.data.obs_shape, self.encoder)
        generator = agent.rng.get(f"intervention/{self.state_key}/initial")
        agent.add_extra(self._extra, BilinearProduct(dim, generator), agent.loss_optimizers[self.loss][0])

    def _refuse_unknown(self, agent: RLModule) -> None:
        agent.module(self.encoder)
        try:
            agent.module(self.projection or self.encoder)
        except UserError as error:
            raise UserError(
                f"{error} For CURL.projection name a module that reads the features alone, such as the layer behind "
                f"the {self.encoder}, or null for the features themselves"
            ) from error

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Start the moving average at the initial weights."""
        super().setup(trainer, pl_module, stage)
        if self.coefficient > 0:
            agent = as_agent(pl_module)
            names = agent.parameter_names(agent.module(name) for name in self.modules)
            self._fast = {name: p for name, p in agent.named_parameters() if name in names}
            self._slow = {name: p.detach().clone() for name, p in self._fast.items()}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the term, and follow the weights to their device."""
        super().on_fit_start(trainer, pl_module)
        self._slow = {name: slow.to(self._fast[name].device) for name, slow in self._slow.items()}

    def penalty(self, agent: RLModule, batch: TensorDictBase) -> Tensor:
        """Return the InfoNCE loss of two fresh shifts of the batch's observations as sampled."""
        pixels = batch["pixels"]
        generator = agent.rng.get_own(f"intervention/{self.state_key}", pixels.device)
        first, second = (random_shift(pixels, self.random_shift_pad, generator) for _ in range(2))
        embedding = Embedding(agent, self.projection)
        queries = embedding(first)
        with torch.no_grad():
            keys = functional_call(embedding, embedding.with_weights(self._slow), (second,))
        if agent.trainer.world_size > 1:
            keys = agent.trainer.strategy.all_gather(keys).flatten(0, 1)
        return info_nce(
            queries, keys, agent.extras[self._extra].get_parameter("weight"), agent.global_rank * len(queries)
        )

    def on_update_end(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> None:
        """Let the average follow the updated weights."""
        move_towards(self._slow, self._fast, self.encoder_tau)

    def copies(self) -> Sequence[Mapping[str, Tensor]]:
        """Return the average: keys would come from weights that are gone."""
        return (self._slow,)

    def state_dict(self) -> dict[str, Any]:
        """Return the moving average."""
        return {"slow": dict(self._slow)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the moving average."""
        self._slow = dict(state_dict["slow"])
