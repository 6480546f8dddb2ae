"""Shrink weights that point away from the negative gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from torch import Tensor

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.callback import Mutation, ScheduledIntervention
from plasticity_rl.callback.gradient_probes import modules_by_loss, probe_generator, refuse_without
from plasticity_rl.callback.soft_reset import Moved, moved_parameters, online_and_target, scale
from plasticity_rl.distributed.ranks import over_ranks
from plasticity_rl.errors import at_least, within
from plasticity_rl.nn.hooks import evaluation_mode
from plasticity_rl.nn.layers import weights_and_biases
from plasticity_rl.surgery import direction_factors

Directions = dict[str, dict[str, Tensor]]
"""Averages of negative gradients, by the name of the module and that of the parameter in it."""


class DASH(ScheduledIntervention):
    """Direction-aware shrinking: multiply what every unit reads by its cosine with the negative gradient, but no less.

    Over ``num_batches`` batches of the replay the negative gradient of the loss that trains a module is averaged, ``g
    <- (1 - alpha) * g + alpha * (-grad)`` from 0 on, at the weights as they are. Then every row of a linear layer,
    every kernel of a convolution and every bias as a whole is multiplied by ``clamp(cos(g, theta), floor, 1)``: what
    the data still ask for stays, the rest shrinks.

    Mutates: weights and biases of the linear and convolutional layers of ``modules`` that are not frozen, in their
        target network by the same factors; noise scales and norms are left alone. Optimizer state stays.
    Logs: ``intervention/dash`` (1 at the frame of an event), ``intervention/dash/factor/<module>`` (mean factor of the
        module's weights and biases, in [floor, 1]) and a line of text.
    Reference: Shin et al. 2024 (arXiv 2410.23495), Algorithm 1; alpha 0.3 and floor 0.3 (their lambda) are the defaults
        of the authors' code, as are the vectors, and that the optimizer is left as it is.
    Differences from the original: it acts there once per chunk of a supervised data set, when training on the chunks
        before has converged, on one batch per chunk seen so far, the oldest first, which hold all data; here by a
        period or at frames, whatever was learned by then, or where the task changes, on batches drawn from the replay,
        without augmentation and without the terms of regularizers. Their number and size are this project's. While
        gradients are not finite nothing shrinks.

    Args:
        modules: Modules by dotted name: ``encoder``, ``actor``, ``critic``, or a part such as ``critic.Q1``;
            None for all networks of the agent.
        alpha: Weight of the newest batch in the average, in (0, 1].
        floor: Smallest factor, in [0, 1]; at 1 nothing shrinks.
        num_batches: Batches that the gradient is averaged over.
        batch_size: Transitions in each.
        every_n_frames: Period in env frames, or None.
        at_frames: Env frames of single events.
        at_task_switches: Shrink whenever the run goes on to another task (``ContinualTasks``), before its first update;
            needs no schedule.

    Raises:
        UserError: When a number is out of range, there is neither schedule nor ``at_task_switches``, or the agent has
            no losses to look at.
    """

    reads = frozenset({"gradients"})
    writes = frozenset({"jump"})
    cuda_graph = "stays"
    family = "soft_reset"
    waits_for_evaluation = True
    example_arguments: ClassVar[Mapping[str, Any]] = {
        "modules": ["encoder", "critic"],
        "num_batches": 2,
        "batch_size": 8,
        "at_frames": [0],
    }
    inert_arguments: ClassVar[Mapping[str, Any]] = {"at_frames": [10**12]}

    def __init__(
        self,
        *,
        modules: Sequence[str] | None = None,
        alpha: float = 0.3,
        floor: float = 0.3,
        num_batches: int = 16,
        batch_size: int = 256,
        every_n_frames: int | None = None,
        at_frames: Sequence[int] = (),
        at_task_switches: bool = False,
    ) -> None:
        self.at_task_switches = self.hears = at_task_switches
        super().__init__(every_n_frames=every_n_frames, at_frames=at_frames)
        within("DASH.alpha", alpha, "(0, 1]", "; published: 0.3")
        within("DASH.floor", floor, "[0, 1]", "; published: 0.3")
        for name, value in {"num_batches": num_batches, "batch_size": batch_size}.items():
            at_least(f"DASH.{name}", value, 1)
        self.modules = self.named_or_open(modules, ("encoder", "actor", "critic"))
        self.alpha, self.floor, self.num_batches, self.batch_size = alpha, floor, num_batches, batch_size

    def tags(self) -> frozenset[str]:
        """Return one tag for each module."""
        return frozenset(f"intervention/{self.name}/factor/{name}" for name in self.modules)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse wrong names, and agents without losses to look at."""
        super().setup(trainer, pl_module, stage)
        refuse_without(as_agent(pl_module), "loss_on", self)

    def on_task_switch(self, agent: RLModule, task: str) -> None:
        """Shrink before the next update."""
        self.announce()

    def _moved(self, agent: RLModule) -> Moved:
        return moved_parameters(agent, self.modules, weights_and_biases)

    def mutates(self, agent: RLModule) -> Mutation:
        """Weights and biases, and their twins in the target network."""
        own, twins = online_and_target(agent, self._moved(agent))
        return Mutation(parameters=own | twins)

    def act(self, agent: RLModule) -> str:
        """Look at all modules, then shrink them."""
        moved = self._moved(agent)
        directions = self.directions(agent, moved)
        factors = {
            name: {key: direction_factors(p, directions[name][key], self.floor) for key, p in own.items()}
            for name, own in moved.items()
        }
        scale(agent, moved, factors)
        means = {name: _mean(moved[name], own) for name, own in factors.items() if own}
        agent.log_scalars({f"intervention/{self.name}/factor/{name}": mean for name, mean in means.items()})
        parts = ", ".join(f"{name} by {float(mean):.2f}" for name, mean in means.items())
        return f"shrank on average {parts} at frame {agent.env_frames}"

    def directions(self, agent: RLModule, moved: Moved) -> Directions:
        """Return the average negative gradients of the parameters, the same on all ranks."""
        found = {name: {key: torch.zeros_like(p) for key, p in own.items()} for name, own in moved.items()}
        draws = agent.rng.get(f"intervention/{self.state_key}")
        noise = probe_generator(agent, f"intervention/{self.state_key}")
        groups = modules_by_loss(agent, self.modules)
        for _ in range(self.num_batches):
            batch = agent.data.replay.peek(self.batch_size, draws).to(agent.device)
            for loss, names in groups.items():
                pairs = [(p, found[name][key]) for name in names for key, p in moved[name].items()]
                if not pairs:  # all frozen
                    continue
                with evaluation_mode(agent), torch.enable_grad():
                    value = agent.loss_on(loss, batch, noise)
                    parameters = [p for p, _ in pairs]
                    gradients = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
                for (_, average), gradient in zip(pairs, gradients, strict=True):
                    average.lerp_(-gradient, self.alpha)
        return {name: {key: over_ranks(agent, value) for key, value in own.items()} for name, own in found.items()}


def _mean(parameters: Mapping[str, Tensor], factors: Mapping[str, Tensor]) -> Tensor:
    """Return the mean factor of all elements."""
    total = torch.stack([factors[key].expand_as(p).sum() for key, p in parameters.items()]).sum()
    return total / sum(p.numel() for p in parameters.values())
