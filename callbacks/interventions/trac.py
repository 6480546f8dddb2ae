"""Scale the way of the optimizer from where it began."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch.optim import Optimizer

from plasticity_rl.agents.base import RLModule
from plasticity_rl.callback.optimizer_choice import OptimizerChoice
from plasticity_rl.errors import UserError, at_least, within
from plasticity_rl.optim.trac import ScaledFromReference


class TRAC(OptimizerChoice):
    """Scale what the agent's Adam walked: ``theta = reference + scale * displacement``, the scale found by itself.

    Adam steps on the displacement, by the gradient at theta; the reference is where the weights were at first. The
    scale starts near 0 and grows while gradients say that a longer way would have been better. Where they stop saying
    so, as after a change of the task, it falls, and weights go back towards the reference: nothing is to be tuned. One
    tuner for each of ``discounts`` sees the product of gradient and displacement, and the scale is the sum of theirs.

    The reference follows edits: weights that another callback moves (``Reset``, ``ReDo``, ``ShrinkAndPerturb``, a
    projection) stay moved, for their reference moves with them. Where optimizer state is cleared too, as in a reset or
    a recycled unit, the new value is the reference and the displacement 0; where that is done to all of a module, its
    tuners begin again as well, and at the scale of a first step.

    Mutates: nothing at an event: weights of ``modules`` change by steps, as with the optimizer it replaces.
    Logs: ``intervention/trac/scale/<module>``, the scale, >= 0; every ``log_every_n_updates`` updates.
    Reference: Muppidi et al. 2024 (arXiv 2405.16642), Algorithms 1 and 2; discounts and first scale as theirs.
    Differences from the original: every module has a scale of its own, where their PPO has one for actor and critic.
        The displacement is kept, while their code recovers it from the weights, which loses what is below their
        rounding while the scale is small, and divides by scale + 1e-8 instead of the scale. The imaginary error
        function is a quadrature in float64. References that follow edits are this project's.

    Args:
        modules: Modules by dotted name: ``encoder``, ``actor``, ``critic``, or a part such as ``critic.Q1``;
            None for all networks of the agent.
        discounts: Of the tuners, each in (0, 1]; at least one.
        first_scale: The paper's epsilon, > 0: what one tuner puts out while its sum is one standard deviation.
        log_every_n_updates: Period of the log in gradient updates.

    Raises:
        UserError: When an argument is out of range, modules overlap, or another callback chooses their optimizer.
    """

    cuda_graph = "eager"
    reads = frozenset()
    kind = ScaledFromReference
    example_arguments: ClassVar[Mapping[str, Any]] = {
        "modules": ["actor"],
        "first_scale": 0.1,
        "log_every_n_updates": 5,
    }

    def __init__(
        self,
        *,
        modules: Sequence[str] | None = None,
        discounts: Sequence[float] = (0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999),
        first_scale: float = 1e-8,
        log_every_n_updates: int = 100,
    ) -> None:
        super().__init__(modules=modules)
        self.discounts, self.first_scale = list(discounts), first_scale
        self.log_every_n_updates = log_every_n_updates
        if not self.discounts:
            raise UserError("TRAC.discounts is empty; give at least one, in (0, 1]")
        for discount in self.discounts:
            within("TRAC.discounts", discount, "(0, 1]")
        within("TRAC.first_scale", first_scale, "(0, inf]")
        at_least("TRAC.log_every_n_updates", log_every_n_updates, 1)

    def tags(self) -> frozenset[str]:
        """Return the tag of each scale."""
        return frozenset(f"intervention/{self.name}/scale/{name}" for name in self.modules)

    def make(self, agent: RLModule, own: Optimizer) -> Optimizer:
        """Return the optimizer, around the agent's own."""
        return ScaledFromReference(own, discounts=self.discounts, first_scale=self.first_scale, eps=1e-8)

    def on_update_start(self, agent: RLModule) -> None:
        """Log the scales after the last update, now and then."""
        if agent.num_updates % self.log_every_n_updates:
            return
        optimizers = {name: self.of_module(agent, name) for name in self.modules}
        groups = {name: one.param_groups[0] for name, one in optimizers.items() if one is not None}
        scales = {name: group["scale"] for name, group in groups.items() if "scale" in group}
        if scales:  # none before the first update
            agent.log_scalars({f"intervention/{self.name}/scale/{name}": scale for name, scale in scales.items()})
