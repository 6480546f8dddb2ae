"""What architectures share that read observations normalised by running statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from tensordict import TensorDictBase
from torch import nn

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.agents.hooks import Mutation
from plasticity_rl.callback.architecture import Architecture, with_twin
from plasticity_rl.callback.heads import heads_of
from plasticity_rl.distributed.ranks import over_ranks
from plasticity_rl.errors import UserError
from plasticity_rl.nn.residual import RunningNorm
from plasticity_rl.surgery import insert_first

NORMALISER = "observations"
"""Name of the normalisation among the layers behind it."""


class NormalizedStates(Architecture):
    """Puts a :class:`RunningNorm` in front of what reads states first, and feeds it what the run observes.

    Stands before the base that builds heads: ``class Mine(NormalizedStates, ResidualHeads)``.

    Args:
        normalize_observations: Whether states are normalised; None: where the run observes states.
        heads: Arguments of the base that builds heads, ``modules`` among them.
    """

    def __init__(self, *, normalize_observations: bool | None, **heads: Any) -> None:
        super().__init__(**heads)
        self.normalize_observations = normalize_observations
        self._normalisers: list[RunningNorm] = []

    def _heads(self, agent: RLModule, modules: Sequence[str]) -> list[str]:
        return heads_of(agent, modules, f"{type(self).__name__}.modules")

    def readers(self, agent: RLModule) -> dict[str, int]:
        """Return what the normalisation is put in front of, by dotted name, and the size of the state.

        It is a head that is built, or what lies before one: in the same module, or in an encoder that all read.
        """
        wanted = self.normalize_observations
        sizes = {} if wanted is False else agent.state_readers()
        if wanted and not sizes:
            raise UserError(
                f"{type(self).__name__}.normalize_observations=true, but this run observes the "
                f"{agent.observation_key}: only states are normalised; leave it out, or use --data.observation state"
            )
        built, tops = self._heads(agent, self.modules), agent.heads()
        found = {}
        for path, size in sizes.items():
            top = path.partition(".")[0]
            encodes = top not in tops
            is_head = not encodes and path in self._heads(agent, [top])
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
