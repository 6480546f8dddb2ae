"""Shrink weights and perturb them with a fresh initialisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from plasticity_rl.agents.base import RLModule
from plasticity_rl.callback import Mutation, ScheduledIntervention
from plasticity_rl.callback.soft_reset import (
    Moved,
    clear_optimizer_state,
    move_towards_fresh,
    moved_parameters,
    online_and_target,
)
from plasticity_rl.errors import within
from plasticity_rl.nn.layers import parameters_outside_norms


class ShrinkAndPerturb(ScheduledIntervention):
    """Set ``theta <- shrink * theta + perturb * psi`` with psi drawn anew each time from the module's initialisation.

    Mutates: weights and biases of ``modules`` outside norm layers (psi of a zero-initialised bias is 0, so biases only
        shrink); their target network, with the same factors and the same psi; the optimizer moments and step counts of
        the moved parameters (to zero) if ``reset_optimizer``. Norm layers, scales (``SimBaV2Blocks``), coefficients of
        activations (``RationalActivation``) and the rest stay as they are.
    Logs: ``intervention/shrink_and_perturb`` (1 at the frame of an event) and a line of text.
    Reference: Ash & Adams 2020 (arXiv 1910.08475); the convex form (``perturb = 1 - shrink``) as used in RL by D'Oro et
        al. 2023 (SR-SPR, shrink 0.8 for the encoder) and Schwarzer et al. 2023 (arXiv 2305.19452, 0.5); on the critic
        as in Ma et al. 2024 (arXiv 2310.07418), Appendix B.3, who state no factors.
    Differences from the original: Ash & Adams act once per round of a supervised task; here the schedule is in env
        frames or updates. Norm layers are left out, since a gain below 1 is no initial value, and so are scales and
        coefficients of activations, whatever the factors are.

    Args:
        modules: Modules by dotted name: ``encoder``, ``actor``, ``critic``, or a part such as ``critic.Q1``;
            None for the module of the values.
        shrink: Factor of the current weights, in [0, 1].
        perturb: Factor of the fresh weights, in [0, 1]; None for ``1 - shrink``.
        reset_optimizer: Whether optimizer state of the moved parameters is cleared.
        every_n_frames: Period in env frames, or None.
        at_frames: Env frames of single events.
        every_n_updates: Period in gradient updates instead, or None; it scales with the replay ratio.
        until_update: Last update after which an event of that period may be due, or None.

    Raises:
        UserError: When a factor is out of range, or there is no schedule, or one on two clocks.
    """

    later_arguments: ClassVar[Mapping[str, Any]] = {"every_n_updates": None, "until_update": None}
    reads = frozenset()
    writes = frozenset({"jump", "optimizer"})
    cuda_graph = "stays"
    family = "soft_reset"
    waits_for_evaluation = True
    example_arguments: ClassVar[Mapping[str, Any]] = {"modules": ["encoder", "critic"], "at_frames": [0]}
    inert_arguments: ClassVar[Mapping[str, Any]] = {"at_frames": [10**12]}

    def __init__(
        self,
        *,
        modules: Sequence[str] | None = None,
        shrink: float = 0.8,
        perturb: float | None = None,
        reset_optimizer: bool = True,
        every_n_frames: int | None = None,
        at_frames: Sequence[int] = (),
        every_n_updates: int | None = None,
        until_update: int | None = None,
    ) -> None:
        super().__init__(
            every_n_frames=every_n_frames,
            at_frames=at_frames,
            every_n_updates=every_n_updates,
            until_update=until_update,
        )
        for name, value in {"shrink": shrink, "perturb": perturb}.items():
            if value is not None:
                within(f"ShrinkAndPerturb.{name}", value, "[0, 1]")
        self.modules = self.named_or_open(modules, ("critic",))
        self.shrink, self.perturb, self.reset_optimizer = shrink, perturb, reset_optimizer

    def default_modules(self, agent: RLModule) -> list[str]:
        """Return the module of the values."""
        return [agent.value_module]

    def _moved(self, agent: RLModule) -> Moved:
        return moved_parameters(agent, self.modules, parameters_outside_norms)

    def mutates(self, agent: RLModule) -> Mutation:
        """Weights and biases outside norm layers, their optimizer slots, and their twins in the target network."""
        own, twins = online_and_target(agent, self._moved(agent))
        return Mutation(parameters=own | twins, optimizer_slots=own if self.reset_optimizer else frozenset())

    def act(self, agent: RLModule) -> str:
        """Move every module in turn, each with fresh weights of its own."""
        moved = self._moved(agent)
        perturb = 1.0 - self.shrink if self.perturb is None else self.perturb
        move_towards_fresh(agent, moved, agent.rng.get(f"intervention/{self.state_key}"), self.shrink, perturb)
        if self.reset_optimizer:
            clear_optimizer_state(agent, [p for parameters in moved.values() for p in parameters.values()])
        text = f"shrank {', '.join(self.modules)} by {self.shrink:g} and perturbed by {perturb:g}"
        return f"{text} at frame {agent.env_frames}"
