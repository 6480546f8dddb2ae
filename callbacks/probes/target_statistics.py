"""Size of the value targets, TD errors, and over-estimation against the evaluated return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from plasticity_rl.activations import evaluation_mode
from plasticity_rl.callback import Probe, as_agent
from plasticity_rl.errors import UserError
from plasticity_rl.evaluation import Episode
from plasticity_rl.gradient_probes import probe_generator, refuse_without
from plasticity_rl.measures import discounted_return, mean_absolute, mean_absolute_difference, spread
from plasticity_rl.probes import or_nan
from plasticity_rl.rl_module import RLModule
from plasticity_rl.tensorboard_layout import Layout


class TargetStatistics(Probe):
    """Magnitude and spread of the value targets, mean absolute TD error, and over-estimation of the return.

    Targets and TD errors are those of the value loss on a batch of the replay without augmentation, after the update's
    step; the error is the mean over all value heads. Over-estimation is measured at every evaluation, not by the
    period: the smallest value head at the first state and action of every episode, minus the discounted return that
    the episode then gave, mean over the episodes. Rewards after an episode's time limit are missing from that return;
    with a discount of 0.99 and 500 env steps they are 0.7 % of the value at most.

    Mutates: nothing.
    Logs: ``target/magnitude``, ``target/spread``, ``target/td_error``, all >= 0, and at evaluations
        ``target/overestimation``; NaN while values are not finite.
    Reference: Lyle et al. 2024 (arXiv 2402.18762), growth of the regression targets as a cause of plasticity loss; the
        over-estimation as in Fujimoto et al. 2018 (arXiv 1802.09477), there over states of the replay.

    Args:
        every_n_updates: Period in gradient updates.
        module: Top-level module that puts out the values.
        batch_size: Transitions in the probe batch.

    Raises:
        UserError: When the batch size is not positive.
    """

    reads = frozenset({"outputs"})
    example_arguments: ClassVar[Mapping[str, Any]] = {"every_n_updates": 3, "batch_size": 8}

    def __init__(self, *, every_n_updates: int = 1000, module: str = "critic", batch_size: int = 256) -> None:
        super().__init__(every_n_updates=every_n_updates)
        if batch_size < 1:
            raise UserError(f"TargetStatistics.batch_size={batch_size} must be a whole number >= 1")
        self.module, self.batch_size = module, batch_size

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse an agent without targets, and what is no top-level module."""
        agent = as_agent(pl_module)
        refuse_without(agent, "td_targets", self)
        if self.module not in agent.module_names:
            raise UserError(
                f"TargetStatistics.module={self.module!r} is no top-level module; there are {list(agent.module_names)}"
            )

    def charts(self) -> Layout:
        """Return a chart of the targets and one of the over-estimation."""
        targets = ["target/magnitude", "target/spread", "target/td_error"]
        over = ["target/overestimation"]
        return {"Learning dynamics": {"Value targets and TD error": targets, "Over-estimation of the return": over}}

    @torch.no_grad()
    def measure(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> dict[str, Any]:
        """Return size and spread of the targets, and the TD error."""
        probed, values = agent.probe_batch(self.batch_size), agent.probe_outputs(self.batch_size)[self.module]
        with evaluation_mode(agent):
            targets = agent.td_targets(probed, probe_generator(agent, "noise"))
        return {
            "target/magnitude": or_nan(mean_absolute, targets),
            "target/spread": or_nan(spread, targets),
            "target/td_error": or_nan(mean_absolute_difference, values, targets.expand_as(values)),
        }

    @torch.no_grad()
    def on_evaluation(self, agent: RLModule, episodes: Sequence[Episode]) -> None:
        """Log how far the values at the first states lie above what the episodes gave."""
        first = [episode.first_observation for episode in episodes if episode.first_observation is not None]
        if len(first) < len(episodes) or not first:
            return
        returns = [discounted_return(episode.rewards, agent.data.discount) for episode in episodes]
        values = self._values(agent, torch.stack(first).to(agent.device))
        agent.log_scalars({"target/overestimation": values.mean() - sum(returns) / len(returns)})

    def _values(self, agent: RLModule, observations: Tensor) -> Tensor:
        with evaluation_mode(agent):
            action = agent.act(observations, explore=False)
            batch = TensorDict({agent.observation_key: observations, "action": action}, batch_size=len(observations))
            return agent.forward_all(batch)[self.module].min(dim=1).values
