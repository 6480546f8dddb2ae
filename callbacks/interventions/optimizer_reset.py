"""Clear optimizer state during training and keep the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, get_args

import lightning.pytorch as pl

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.callback import Mutation, ScheduledIntervention
from plasticity_rl.errors import UserError, one_of
from plasticity_rl.surgery import StatePart, clear_state


class OptimizerReset(ScheduledIntervention):
    """Set optimizer moments, step counts or both to zero; no weight changes at that moment.

    Mutates: the optimizer state of all parameters of ``modules``: with ``both`` moments and step counts, with
        ``moments`` all but the step counts, with ``step`` the step counts alone. No weight, no target network.
    Logs: ``intervention/optimizer_reset`` (1 at the frame of a reset) and a line of text.
    Reference: Asadi et al. 2023 (arXiv 2306.17833), ``both``; Ellis et al. 2024 (arXiv 2412.17113), ``step``.
    Differences from the original: both reset when the objective changes at once (a new target network, a new batch of
        experience). Asadi et al. do so at every copy of Rainbow's target, which is ``at_target_copies``; the moving
        target of DrQ-v2 and SAC has no such moment, so there the schedule is in env frames. ``moments`` alone makes
        Adam's next steps larger: zero moments without the bias correction of a first step.

    Args:
        modules: Modules by dotted name: ``encoder``, ``actor``, ``critic``, or a part such as ``critic.Q1``;
            None for all networks of the agent.
        what: ``both``, ``moments`` or ``step``, of which an optimizer without step counts (SGD) has none to clear.
        every_n_frames: Period in env frames, or None.
        at_frames: Env frames of single resets.
        at_target_copies: Reset whenever the agent has copied its weights into its target network, before the next
            update; needs no schedule.

    Raises:
        UserError: When there is neither schedule nor ``at_target_copies``, or the agent never copies its target.
    """

    cuda_graph = "stays"
    later_arguments: ClassVar[Mapping[str, Any]] = {"at_target_copies": False}
    reads = frozenset()
    writes = frozenset({"optimizer"})
    family = "soft_reset"
    example_arguments: ClassVar[Mapping[str, Any]] = {"at_frames": [60]}
    inert_arguments: ClassVar[Mapping[str, Any]] = {"at_frames": [10**12]}

    def __init__(
        self,
        *,
        modules: Sequence[str] | None = None,
        what: StatePart = "both",
        every_n_frames: int | None = None,
        at_frames: Sequence[int] = (),
        at_target_copies: bool = False,
    ) -> None:
        self.at_target_copies = self.hears = at_target_copies
        super().__init__(every_n_frames=every_n_frames, at_frames=at_frames)
        one_of("OptimizerReset.what", what, get_args(StatePart))
        self.modules, self.what = self.named_or_open(modules, ("encoder", "actor", "critic")), what

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse to wait for copies that never come."""
        super().setup(trainer, pl_module, stage)
        if self.at_target_copies and not as_agent(pl_module).copies_target:
            raise UserError(
                f"OptimizerReset.at_target_copies=True: this {type(pl_module).__name__} never copies its weights into "
                "a target network at once; give every_n_frames or at_frames instead"
            )

    def on_target_copy(self, agent: RLModule) -> None:
        """Reset before the next update."""
        self.announce()

    def mutates(self, agent: RLModule) -> Mutation:
        """Optimizer slots of the modules."""
        return Mutation(optimizer_slots=agent.parameter_names(agent.module(name) for name in self.modules))

    def act(self, agent: RLModule) -> str:
        """Clear the state of every parameter that an optimizer holds."""
        for name in self.modules:
            for parameter in agent.module(name).parameters():
                optimizer = agent.optimizer_of(parameter)
                if optimizer is not None:
                    clear_state(optimizer, [parameter], self.what)
        return f"cleared optimizer state ({self.what}) of {', '.join(self.modules)} at frame {agent.env_frames}"
