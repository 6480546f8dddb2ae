"""How much one update changes outputs on transitions that were not in its batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from tensordict import TensorDictBase
from torch import Tensor

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.callback.charts import Layout, each
from plasticity_rl.callback.module_probes import ModuleProbe, or_nan
from plasticity_rl.errors import UserError
from plasticity_rl.measures import mean_absolute_difference
from plasticity_rl.nn.hooks import evaluation_mode


class Churn(ModuleProbe):
    """Mean absolute change of a module's output over one update: of the policy's actions and of the values.

    Before and after the update, on one batch of the replay without augmentation, drawn apart from the training batch
    (a few of its transitions may be in both). What interventions do to the weights before the update does not count.

    Mutates: nothing.
    Logs: ``churn/<module>``, >= 0: for DrQ-v2 ``churn/actor`` in units of the action and ``churn/critic`` in units of
        the return; NaN while outputs are not finite.
    Reference: Tang et al. 2025 (arXiv 2506.00592), churn; Schaul et al. 2022 (arXiv 2206.00730), policy churn, there
        the share of greedy actions that change.
    Differences from the original: mean absolute change; the originals count greedy actions that change, or square.

    Args:
        every_n_updates: Period in gradient updates; the change is always over a single one.
        modules: Top-level modules; None for those that put out actions and values.
        batch_size: Transitions in the probe batch.
    """

    reads = frozenset({"outputs"})
    cuda_graph = "stays"
    example_arguments: ClassVar[Mapping[str, Any]] = {"every_n_updates": 3, "batch_size": 8}

    def __init__(
        self, *, every_n_updates: int = 1000, modules: Sequence[str] | None = None, batch_size: int = 256
    ) -> None:
        super().__init__(every_n_updates=every_n_updates, modules=modules)
        self.batch_size = self.enough(batch_size)
        self._before: tuple[TensorDictBase, dict[str, Tensor]] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what is no top-level module."""
        super().setup(trainer, pl_module, stage)
        agent = as_agent(pl_module)
        for name in self.modules:
            if name not in agent.module_names:
                raise UserError(f"Churn.modules: {name!r} is no top-level module; there are {list(agent.module_names)}")

    def default_modules(self, agent: RLModule) -> list[str]:
        """Return the modules that put out actions and values."""
        return agent.heads()

    def tags(self) -> frozenset[str]:
        """Return one tag for each module."""
        return frozenset(f"churn/{name}" for name in self.modules)

    def charts(self) -> Layout:
        """Return a chart of each module."""
        return {"Learning dynamics": each(self.modules, {"Churn, change of the output over one update": "churn/{}"})}

    def begin(self, agent: RLModule) -> None:
        """Keep a batch and the outputs on it."""
        batch = agent.probe_batch(self.batch_size)
        self._before = batch, self._outputs(agent, batch)

    def measure(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> dict[str, Any]:
        """Compare with the outputs now."""
        assert self._before is not None
        (probed, before), self._before = self._before, None
        after = self._outputs(agent, probed)
        return {f"churn/{name}": or_nan(mean_absolute_difference, after[name], before[name]) for name in self.modules}

    @torch.no_grad()
    def _outputs(self, agent: RLModule, batch: TensorDictBase) -> dict[str, Tensor]:
        with evaluation_mode(agent):
            outputs = agent.forward_all(batch)
        return {name: outputs[name] for name in self.modules}
