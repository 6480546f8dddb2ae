"""Perturb networks the more, the more of the actor is dormant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from torch import nn

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.callback import Mutation, ScheduledIntervention
from plasticity_rl.callback.soft_reset import (
    Moved,
    clear_optimizer_state,
    move_towards_fresh,
    moved_parameters,
    online_and_target,
)
from plasticity_rl.errors import UserError
from plasticity_rl.measures.dormancy import dormancy_scores
from plasticity_rl.nn.hooks import evaluation_mode, hooked
from plasticity_rl.nn.layers import LEARNS, linear_parameters


class DormantRatioPerturbation(ScheduledIntervention):
    """Set ``theta <- a * theta + (1 - a) * psi`` with psi a fresh initialisation and ``a`` from the dormant ratio.

    ``a = clip(1 - rate * beta, min_factor, max_factor)``; beta is the fraction of outputs of the linear layers of
    ``observed`` (of an injected head: of the added one) whose mean absolute value on a batch of the replay is below
    ``tau`` times the mean of their layer.

    Mutates: weights and biases of the linear layers of ``modules``, and those of their target network with the same
        psi; the optimizer moments and step counts (to zero) of all parameters of ``modules``, of those that do not
        move as well. No convolution and no norm moves.
    Logs: ``intervention/dormant_ratio_perturbation`` (1 at the frame of an event) and a line of text;
        ``intervention/dormant_ratio_perturbation/dormant_ratio`` (beta) and
        ``intervention/dormant_ratio_perturbation/factor`` (a), both in [0, 1].
    Reference: Xu et al. 2024 (DrM, arXiv 2310.19668): every 100 000 env steps (200 000 frames), tau 0.025, rate 2,
        smallest factor 0.2, largest factor 0.6 to 1 by task.
    Differences from the original: this is DrM's perturbation alone, without its exploration and exploitation; beta
        comes from a batch of 256 that is not augmented, instead of the last training batch; the target network gets
        the psi of the online network instead of one of its own.

    Args:
        modules: Modules by dotted name that are perturbed; None for all networks of the agent.
        observed: Module whose dormant ratio counts; None for the policy (published), or for the values where an agent
            has no policy network.
        tau: Threshold, in [0, 1).
        rate: How much the factor falls with the ratio, >= 0.
        min_factor: Smallest factor, in [0, 1].
        max_factor: Largest factor, in [``min_factor``, 1].
        every_n_frames: Period in env frames, or None.
        at_frames: Env frames of single events.
    """

    reads = frozenset({"units"})
    writes = frozenset({"jump", "optimizer"})
    cuda_graph = "stays"
    family = "soft_reset"
    waits_for_evaluation = True
    example_arguments: ClassVar[Mapping[str, Any]] = {"at_frames": [0]}
    inert_arguments: ClassVar[Mapping[str, Any]] = {"at_frames": [10**12]}

    def __init__(
        self,
        *,
        modules: Sequence[str] | None = None,
        observed: str | None = None,
        tau: float = 0.025,
        rate: float = 2.0,
        min_factor: float = 0.2,
        max_factor: float = 0.9,
        every_n_frames: int | None = None,
        at_frames: Sequence[int] = (),
    ) -> None:
        super().__init__(every_n_frames=every_n_frames, at_frames=at_frames)
        if not 0 <= min_factor <= max_factor <= 1:
            raise UserError(
                f"DormantRatioPerturbation.min_factor={min_factor} and max_factor={max_factor} must be in [0, 1], "
                "the first not above the second"
            )
        if not 0 <= tau < 1 or not rate >= 0:
            raise UserError(f"DormantRatioPerturbation.tau={tau} must be in [0, 1), and rate={rate} must be >= 0")
        self.modules = self.named_or_open(modules, ("encoder", "actor", "critic"))
        self._observed_is_open = observed is None
        self.observed: str = "actor" if observed is None else observed
        self.tau, self.rate = tau, rate
        self.min_factor, self.max_factor = min_factor, max_factor

    def open_arguments(self) -> frozenset[str]:
        """Return the names of the arguments that were left to the agent."""
        return super().open_arguments() | (frozenset({"observed"}) if self._observed_is_open else frozenset())

    def resolve(self, agent: RLModule) -> None:
        """Take the modules of this agent where none were named."""
        super().resolve(agent)
        if self._observed_is_open:
            self.observed = agent.policy_module or agent.value_module

    def tags(self) -> frozenset[str]:
        """Return the tags of the ratio and the factor."""
        return frozenset(f"intervention/{self.name}/{value}" for value in ("dormant_ratio", "factor"))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse modules without linear layers before anything is trained."""
        super().setup(trainer, pl_module, stage)
        agent = as_agent(pl_module)
        for names in (self.modules, [self.observed]):
            if not any(linear_parameters(agent.module(name)) for name in names):
                raise UserError(f"DormantRatioPerturbation: {names} have no linear layer; name modules that have one")

    def _moved(self, agent: RLModule) -> Moved:
        return moved_parameters(agent, self.modules, linear_parameters)

    def mutates(self, agent: RLModule) -> Mutation:
        """Parameters of linear layers and their twins in the target network; all optimizer slots of the modules."""
        own, twins = online_and_target(agent, self._moved(agent))
        slots = agent.parameter_names(agent.module(name) for name in self.modules)
        return Mutation(parameters=own | twins, optimizer_slots=slots)

    @torch.no_grad()
    def dormant_ratio(self, agent: RLModule) -> float:
        """Return beta, from one forward pass on a batch of the replay; the same on all ranks."""
        activity: list[torch.Tensor] = []

        def average(layer: nn.Module, _: Any, output: torch.Tensor) -> None:
            activity.append(output.float().abs().flatten(0, -2).mean(0))

        layers = [layer for layer in agent.submodules(self.observed, LEARNS).values() if isinstance(layer, nn.Linear)]
        hooks = hooked(layer.register_forward_hook(average) for layer in layers)
        with hooks, evaluation_mode(agent):  # no estimate of a norm moves
            agent.forward_all(agent.probe_batch())
        means = [agent.trainer.strategy.reduce(mean, reduce_op="mean") for mean in activity]
        return float(torch.cat([dormancy_scores(mean[None]) < self.tau for mean in means]).float().mean())

    def act(self, agent: RLModule) -> str:
        """Measure, then move every module in turn."""
        beta = self.dormant_ratio(agent)
        factor = min(max(1.0 - self.rate * beta, self.min_factor), self.max_factor)
        generator = agent.rng.get(f"intervention/{self.state_key}")
        move_towards_fresh(agent, self._moved(agent), generator, factor, 1.0 - factor)
        clear_optimizer_state(agent, [p for name in self.modules for p in agent.module(name).parameters()])
        prefix = f"intervention/{self.name}"
        agent.log_scalars({f"{prefix}/dormant_ratio": beta, f"{prefix}/factor": factor})
        return f"kept {factor:g} of {', '.join(self.modules)} at dormant ratio {beta:g}, frame {agent.env_frames}"
