"""Set fast weights back to their slow moving average now and then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.callback import Mutation, UpdateIntervention
from plasticity_rl.errors import within


class HareAndTortoise(UpdateIntervention):
    """Keep an exponential moving average of the weights (the tortoise); every so often the agent (the hare) gets it.

    The average takes one step after every update: ``slow <- decay * slow + (1 - decay) * fast``. It starts at the
    weights that training starts from. Weights that another intervention lets jump (a reset, a recycled unit) jump in
    the average as well, and only those.

    Mutates: all weights, biases and norm parameters of ``modules``. No optimizer state, no target network.
    Logs: ``intervention/hare_and_tortoise`` (1 at the frame of an event) and a line of text.
    Reference: Lee et al. 2024 (arXiv 2406.02596), rate 0.999; the default period is this project's.
    Differences from the original: acting and evaluation use the hare; the target network goes on following the hare.

    Args:
        modules: Modules by dotted name: ``encoder``, ``actor``, ``critic``, or a part such as ``critic.Q1``;
            None for all networks of the agent.
        decay: Weight of the old average per update, in [0, 1).
        every_n_updates: Period in gradient updates after which the fast weights become the slow ones.
    """

    reads = frozenset({"copy"})
    writes = frozenset({"jump"})
    cuda_graph = "stays"
    family = "soft_reset"
    example_arguments: ClassVar[Mapping[str, Any]] = {"decay": 0.9, "every_n_updates": 5}
    inert_arguments: ClassVar[Mapping[str, Any]] = {"every_n_updates": 10**12}

    def __init__(
        self,
        *,
        modules: Sequence[str] | None = None,
        decay: float = 0.999,
        every_n_updates: int = 10_000,
    ) -> None:
        super().__init__(every_n_updates=every_n_updates)
        within("HareAndTortoise.decay", decay, "[0, 1)", ": at 1 the average never moves")
        self.modules, self.decay = self.named_or_open(modules, ("encoder", "actor", "critic")), decay
        self._fast: dict[str, nn.Parameter] = {}
        self._slow: dict[str, Tensor] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget the average of an earlier run."""
        super().setup(trainer, pl_module, stage)
        agent = as_agent(pl_module)
        self._fast = {f"{name}.{key}": p for name in self.modules for key, p in agent.module(name).named_parameters()}
        self._slow = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the average at the weights as they are, on their device, or go on with that of the checkpoint."""
        for key, fast in self._fast.items():
            self._slow[key] = self._slow[key].to(fast.device) if key in self._slow else fast.detach().clone()

    def mutates(self, agent: RLModule) -> Mutation:
        """Parameters of the modules."""
        return Mutation(parameters=agent.parameter_names(agent.module(name) for name in self.modules))

    @torch.no_grad()
    def on_update_start(self, agent: RLModule) -> None:
        """Average what the update before made of the weights, then set them back if it is time."""
        if agent.num_updates > 0:
            for key, fast in self._fast.items():
                self._slow[key].lerp_(fast, 1.0 - self.decay)
        super().on_update_start(agent)

    @torch.no_grad()
    def act(self, agent: RLModule) -> str:
        """Give the hare the weights of the tortoise."""
        for key, fast in self._fast.items():
            fast.copy_(self._slow[key])
        return f"set {', '.join(self.modules)} to their moving average at frame {agent.env_frames}"

    def copies(self) -> Sequence[Mapping[str, Tensor]]:
        """Return the average: it would bring weights that jumped back."""
        return (self._slow,)

    def state_dict(self) -> dict[str, Any]:
        """Return the average, and how many events have been seen."""
        return {**super().state_dict(), "slow": dict(self._slow)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        super().load_state_dict(state_dict)
        self._slow = dict(state_dict["slow"])
