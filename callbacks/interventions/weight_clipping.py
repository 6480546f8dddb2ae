"""Keep every weight within a multiple of its usual initial range."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.agents.jumps import Jump
from plasticity_rl.callback import Intervention, Mutation
from plasticity_rl.errors import at_least, within
from plasticity_rl.nn.layers import weight_layers
from plasticity_rl.surgery import clip_weights, clipping_bound


class WeightClipping(Intervention):
    """Clamp weights and biases to ``+-kappa / sqrt(fan_in)`` at the start of every update.

    Mutates: weights and biases of the linear and convolutional layers of ``modules``, at every update; of noisy layers
        the scales of the noise as well. No norm layer, no optimizer state; a target network follows by its moving
        average alone. The first clip, and the one after another intervention let weights jump, are jumps: copies that
        other callbacks keep are clipped as well.
    Logs: ``intervention/weight_clipping/<modules>/clipped_fraction``, the fraction of elements that were outside at
        that update, in [0, 1]; every ``log_every_n_updates`` updates, the first included.
    Reference: Elsayed et al. 2024 (arXiv 2407.01704); kappa 3 in their PPO. Biases have the bound of their layer, as in
        the authors' code.
    Differences from the original: acts before an update instead of after it, so that evaluations, acting and the
        target network see the weights of the last step unclipped. Made for uniform initial weights: of DrQ-v2's
        orthogonal ones kappa 3 clips a few at the first update, most of them in the convolutions.

    Args:
        kappa: Bound in units of ``1 / sqrt(fan_in)``, > 0.
        modules: Modules by dotted name: ``encoder``, ``actor``, ``critic``, or a part such as ``critic.Q1``;
            None for all networks of the agent.
        log_every_n_updates: Period of the log in gradient updates.
    """

    reads = frozenset()
    writes = frozenset({"projection", "jump"})
    cuda_graph = "stays"
    family = "surgery"
    example_arguments: ClassVar[Mapping[str, Any]] = {"kappa": 1.0, "log_every_n_updates": 5}
    inert_arguments: ClassVar[Mapping[str, Any]] = {"kappa": 1e6}

    def __init__(
        self,
        *,
        kappa: float = 3.0,
        modules: Sequence[str] | None = None,
        log_every_n_updates: int = 100,
    ) -> None:
        within("WeightClipping.kappa", kappa, "(0, inf]")
        at_least("WeightClipping.log_every_n_updates", log_every_n_updates, 1)
        self.modules = self.named_or_open(modules, ("encoder", "actor", "critic"))
        self.kappa, self.log_every_n_updates = kappa, log_every_n_updates
        self._jumped = True  # whether the next clip has more to do than the one step since the last

    def tags(self) -> frozenset[str]:
        """Return the tag of the clipped fraction."""
        return frozenset([f"intervention/{self.name}/{'+'.join(self.modules)}/clipped_fraction"])

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse modules without weights before anything is trained."""
        super().setup(trainer, pl_module, stage)
        self._layers(as_agent(pl_module))
        self._jumped = True

    def _layers(self, agent: RLModule) -> list[nn.Module]:
        return list(weight_layers({name: agent.module(name) for name in self.modules}).values())

    def mutates(self, agent: RLModule) -> Mutation:
        """Weights and biases of linear and convolutional layers."""
        return Mutation(parameters=agent.parameter_names(self._layers(agent)))

    def moves_weights(self, agent: RLModule) -> bool:
        """Return whether this clip is no mere end of the step before: the first, and after weights jumped."""
        return self._jumped

    def on_weights_jumped(self, agent: RLModule, jump: Jump) -> None:
        """Note that the next clip may have to do with weights that jumped."""
        self._jumped = self._jumped or jump.by != self.state_key

    def on_update_start(self, agent: RLModule) -> None:
        """Clip, and now and then log how much there was to clip."""
        fraction = clip_weights(self._layers(agent), self.kappa)
        self._jumped = False
        if agent.watch is not None:
            bounds = self._bounds(agent)
            agent.watch.repeat(functools.partial(_clip_copy, bounds), list(bounds))
        if agent.num_updates % self.log_every_n_updates == 0:
            tag = f"intervention/{self.name}/{'+'.join(self.modules)}/clipped_fraction"
            agent.log_scalars({tag: fraction})

    def _bounds(self, agent: RLModule) -> dict[str, float]:
        """Return the bound of every parameter that is clipped, by name."""
        bounds = {
            id(p): clipping_bound(layer, self.kappa)
            for layer in self._layers(agent)
            for p in layer.parameters(recurse=False)
        }
        return {name: bounds[id(p)] for name, p in agent.named_parameters() if id(p) in bounds}

    def state_dict(self) -> dict[str, Any]:
        """Return whether weights jumped since the last clip."""
        return {"jumped": self._jumped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self._jumped = state_dict["jumped"]


@torch.no_grad()
def _clip_copy(bounds: Mapping[str, float], copy: Mapping[str, Tensor]) -> None:
    for name, bound in bounds.items():
        if name in copy:
            copy[name].clamp_(-bound, bound)
