"""SimBa: residual heads behind normalised observations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from tensordict import TensorDictBase
from torch import nn

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.callback import Mutation
from plasticity_rl.callback.architecture import with_twin
from plasticity_rl.callback.heads import heads_of
from plasticity_rl.callback.residual_heads import ResidualHeads, linear_like, norm_like
from plasticity_rl.distributed.ranks import over_ranks
from plasticity_rl.errors import UserError
from plasticity_rl.nn.residual import Residual, RunningNorm
from plasticity_rl.nn.starts import mark_start
from plasticity_rl.surgery import insert_first

EXPANSION = 4
"""Width of a block's hidden layer, in widths of the stream."""
NORMALISER = "observations"
"""Name of the normalisation among the layers behind it."""


class SimBaBlocks(ResidualHeads):
    """Build the heads of actor and critic as SimBa's: a linear residual stream that every block reads normalised.

    A head becomes Linear, then ``num_blocks`` times ``x + Linear(ReLU(Linear(LayerNorm(x))))`` with a hidden layer of
    four times the width, then LayerNorm and the output layer. Heads are ``actor.policy``, ``critic.Q1`` and
    ``critic.Q2`` of DrQ-v2 and SAC, and the streams of DQN's critic; trunks and convolutions before them stay.

    States are normalised by running statistics before whatever reads them first: each number minus its mean, divided by
    its standard deviation, over all observations that the run acted on so far, those of the random seed phase
    too. As in the original it is not those of the batches, which would count an observation as often as it is drawn.
    Observations of evaluations do not count, nor do those that ``WarmStartReplay`` brings along.

    Units: the hidden layer of a block has units of its own, which make and are read by one layer each, so that they are
    recycled, pruned and measured as any (fractions of active units, dormant units). The stream has none: what feeds it
    is read by all blocks behind. The features whose rank and norm probes take are those of the last block's hidden
    layer, not the normalised stream that the output layer reads.

    Mutates: before training, the heads of ``modules`` and of their target, whose weights are drawn anew; with states,
        adds a normalisation in front of what reads them. During training nothing but its statistics, buffers, in the
        online and the target network alike, after every env step. They are no weights: a reset keeps them.
    Logs: nothing of its own.
    Reference: Lee et al. 2024 (arXiv 2410.09754), section 4; sizes and initial weights from the published code: one
        block of width 128 for the policy, two of width 512 for values.
    Differences from the original: the architecture alone, without its AdamW (weight decay 0.01), learning rates, and
        choice of one or two critics. Statistics change after an observation was acted on, instead of right before.
        Trunks of DrQ-v2 stay in front of the heads, and images are not normalised. Policies keep their own output
        (the bounds of SAC's log standard deviation). With noisy layers all linear layers of a head are noisy. The first
        and the output layer start as the agent's own, which for DrQ-v2 and SAC is the original's orthogonal one.

    Args:
        modules: Modules by dotted name: ``actor``, ``critic``, or a head such as ``critic.Q1``; None for those that put
            out actions and values.
        num_blocks: Blocks of every head; None: 1 for actions, 2 for values.
        hidden_dim: Width of the stream; None: 128 for actions, 512 for values.
        normalize_observations: Whether states are normalised; None: where the run observes states.

    Raises:
        UserError: When a number is out of range, a module has no head, or images are to be normalised.
    """

    published_sizes: ClassVar[Mapping[str, tuple[int, int]]] = {"actions": (1, 128), "values": (2, 512)}
    example_arguments: ClassVar[Mapping[str, Any]] = {"modules": ["actor", "critic"], "hidden_dim": 8}

    def __init__(
        self,
        *,
        modules: Sequence[str] | None = None,
        num_blocks: int | None = None,
        hidden_dim: int | None = None,
        normalize_observations: bool | None = None,
    ) -> None:
        super().__init__(modules=modules, num_blocks=num_blocks, hidden_dim=hidden_dim)
        self.normalize_observations = normalize_observations
        self._normalisers: list[RunningNorm] = []

    @property
    def name(self) -> str:
        """``simba_blocks``, SimBa being one word."""
        return "simba_blocks"

    def layers(self, first: nn.Linear, last: nn.Linear, num_blocks: int, width: int) -> list[nn.Module]:
        """Return the layers of a head."""
        hidden = EXPANSION * width
        blocks = [
            Residual(
                norm_like(first, width),
                mark_start(linear_like(first, width, hidden), "he_normal"),
                nn.ReLU(),
                mark_start(linear_like(first, hidden, width), "he_normal"),
            )
            for _ in range(num_blocks)
        ]
        embedding, output = linear_like(first, first.in_features, width), linear_like(last, width, last.out_features)
        return [embedding, *blocks, norm_like(first, width), output]

    def readers(self, agent: RLModule) -> dict[str, int]:
        """Return what the normalisation is put in front of, by dotted name, and the size of the state.

        It is a head that is built, or what lies before one: in the same module, or in an encoder that all read.
        """
        wanted = self.normalize_observations
        sizes = {} if wanted is False else agent.state_readers()
        if wanted and not sizes:
            raise UserError(
                f"SimBaBlocks.normalize_observations=true, but this run observes the {agent.observation_key}: only "
                "states are normalised; leave it out, or use --data.observation state"
            )
        built, tops = self.heads(agent), agent.heads()
        found = {}
        for path, size in sizes.items():
            top = path.partition(".")[0]
            encodes = top not in tops
            is_head = not encodes and path in heads_of(agent, [top], "SimBaBlocks.modules")
            if path in built if is_head else encodes or any(head.startswith(f"{top}.") for head in built):
                found[path] = size
        return found

    def claims(self, agent: RLModule) -> frozenset[str]:
        """Return what it builds, and the observations that it normalises."""
        return super().claims(agent) | {f"normalise what {path} observes" for path in self.readers(agent)}

    def mutates(self, agent: RLModule) -> Mutation:
        """The statistics."""
        mine = {id(buffer) for norm in self._find(agent) for buffer in norm.buffers()}
        return Mutation(buffers=frozenset(name for name, buffer in agent.named_buffers() if id(buffer) in mine))

    def build(self, agent: RLModule) -> None:
        """Put the new heads in the places of the old ones, and the normalisation in front."""
        super().build(agent)
        for path, size in self.readers(agent).items():
            for network in with_twin(agent, path):
                assert isinstance(network, nn.Sequential)
                device = next(network.parameters()).device
                insert_first(network, NORMALISER, RunningNorm(size).to(device))

    def _find(self, agent: RLModule) -> list[RunningNorm]:
        """Return all normalisations: also those in copies of a head that wait for an injection."""
        networks = [network for path in self.readers(agent) for network in with_twin(agent, path)]
        return [layer for network in networks for layer in network.modules() if isinstance(layer, RunningNorm)]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look the normalisations up, once."""
        super().on_fit_start(trainer, pl_module)
        self._normalisers = self._find(as_agent(pl_module))

    def moves_weights(self, agent: RLModule) -> bool:
        """Return False: statistics are no weights."""
        return False

    @torch.no_grad()
    def on_env_step(self, agent: RLModule, step: TensorDictBase) -> None:
        """Take in the observations that were acted on, of all environments and ranks."""
        if not self._normalisers:
            return
        observed = step[agent.observation_key]
        away = observed.to(self._normalisers[0].mean.device).double() - self._normalisers[0].mean
        shift, square = over_ranks(agent, torch.stack([away.mean(0), away.square().mean(0)]))
        for normaliser in self._normalisers:
            normaliser.update(shift, square, agent.data.num_envs_of_all_ranks)
