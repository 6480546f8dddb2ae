"""Size of the value targets, TD errors, and over-estimation against the evaluated return."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.agents.dqn.losses import values_taken
from plasticity_rl.callback import Probe
from plasticity_rl.callback.charts import Layout
from plasticity_rl.callback.gradient_probes import probe_generator, refuse_without
from plasticity_rl.callback.module_probes import or_nan
from plasticity_rl.data.evaluation import Episode
from plasticity_rl.errors import UserError, at_least
from plasticity_rl.measures import discounted_return, mean_absolute, mean_absolute_difference, spread
from plasticity_rl.nn.hooks import evaluation_mode


class TargetStatistics(Probe):
    """Magnitude and spread of the value targets, mean absolute TD error, and over-estimation of the return.

    Targets and TD errors are those of the value loss on a batch of the replay without augmentation, after the update's
    step; the error is the mean over all value heads, of discrete actions that of the action stored. Over-estimation is
    measured at every evaluation, not by the period: the smallest value head at the first state and action of every
    episode, minus the discounted return that the episode then gave, of rewards clipped as they are learned
    (``data.reward_clip``), mean over the episodes. With ``life_loss`` the values of a game end with a life, and its
    return does not: the difference is then lower by what the lives after it gave.

    Soft values (SAC) count the policy's entropy beside the reward, and so does the return that they are compared with:
    at every n-th env step after the first (n of the n-step return, as the values do), the weighted entropy of the
    policy at the states of the episode. The evaluated actions are the policy's mean, and that difference remains.

    An episode that a time limit of T env steps cuts has no rewards after it, while the values look beyond: up to
    ``discount^T`` of the value is missing from the return (0.7 % for a discount of 0.99 and 500 env steps, 61 % for
    50). ``target/missing_tail`` is that part as the values themselves have it, ``discount^T`` times the smallest head
    at the last state and the policy's action there; 0 for an episode that terminated. What is left of the
    over-estimation without it is the error against the return with a bootstrapped tail.

    Mutates: nothing.
    Logs: ``target/magnitude``, ``target/spread``, ``target/td_error``, all >= 0, and at evaluations
        ``target/overestimation`` and ``target/missing_tail``, both in units of the return; NaN while values are not
        finite.
    Reference: Lyle et al. 2024 (arXiv 2402.18762), growth of the regression targets as a cause of plasticity loss; the
        over-estimation as in Fujimoto et al. 2018 (arXiv 1802.09477), there over states of the replay; the entropy in
        the value, Haarnoja et al. 2018 (arXiv 1812.05905), Eq. 3.
    Differences from the original: over-estimation at the first state of every evaluation episode, not over states of
        the replay; of soft values against the return with the entropy that they count.

    Args:
        every_n_updates: Period in gradient updates.
        module: Top-level module that puts out the values; None for the agent's.
        batch_size: Transitions in the probe batch.

    Raises:
        UserError: When the batch size is not positive.
    """

    reads = frozenset({"outputs"})
    cuda_graph = "stays"
    example_arguments: ClassVar[Mapping[str, Any]] = {"every_n_updates": 3, "batch_size": 8}

    def __init__(self, *, every_n_updates: int = 1000, module: str | None = None, batch_size: int = 256) -> None:
        super().__init__(every_n_updates=every_n_updates)
        at_least("TargetStatistics.batch_size", batch_size, 1)
        self.module, self.batch_size = module or "", batch_size
        self.leave_open(module=module)

    def default_for(self, argument: str, agent: RLModule) -> Any:
        """Return the module of the values."""
        return agent.value_module if argument == "module" else super().default_for(argument, agent)

    def tags(self) -> frozenset[str]:
        """Return what it writes."""
        names = ("magnitude", "spread", "td_error", "overestimation", "missing_tail")
        return frozenset(f"target/{name}" for name in names)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse an agent without targets, and what is no top-level module."""
        agent = as_agent(pl_module)
        self.resolve(agent)
        refuse_without(agent, "td_targets", self)
        if self.module not in agent.module_names:
            raise UserError(
                f"TargetStatistics.module={self.module!r} is no top-level module; there are {list(agent.module_names)}"
            )

    def charts(self) -> Layout:
        """Return a chart of the targets and one of the over-estimation."""
        targets = ["target/magnitude", "target/spread", "target/td_error"]
        over = ["target/overestimation", "target/missing_tail"]
        return {"Learning dynamics": {"Value targets and TD error": targets, "Over-estimation of the return": over}}

    @torch.no_grad()
    def measure(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> dict[str, Any]:
        """Return size and spread of the targets, and the TD error."""
        probed, outputs = agent.probe_batch(self.batch_size), agent.probe_outputs(self.batch_size)[self.module]
        values = values_taken(outputs, probed["action"], agent.num_actions)
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
        last = [episode.last_observation for episode in episodes if episode.last_observation is not None]
        if not episodes or min(len(first), len(last)) < len(episodes):
            return
        generator = probe_generator(agent, f"entropy/{agent.env_frames}")
        bonuses = [self._bonuses(agent, episode, generator) for episode in episodes]
        returns = [_return(agent, episode, bonus) for episode, bonus in zip(episodes, bonuses, strict=True)]
        values = self._values(agent, torch.stack(first).to(agent.device)).tolist()
        ends = self._values(agent, torch.stack(last).to(agent.device)).tolist()
        tails = [
            0.0 if episode.terminated else agent.data.horizon[1] ** episode.env_steps * (end + (bonus or [0.0])[-1])
            for episode, end, bonus in zip(episodes, ends, bonuses, strict=True)
        ]
        over = sum(values) - sum(returns)
        agent.log_scalars(
            {"target/overestimation": over / len(episodes), "target/missing_tail": sum(tails) / len(episodes)}
        )

    def _values(self, agent: RLModule, observations: Tensor) -> Tensor:
        """Return the smallest head at an observation of every episode and the action of the evaluated policy there."""
        with evaluation_mode(agent):
            action = _actions(agent, observations)
            batch = TensorDict({agent.observation_key: observations, "action": action}, batch_size=len(observations))
            outputs = agent.forward_all(batch)[self.module]
        return values_taken(outputs, action, agent.num_actions).min(dim=1).values

    def _bonuses(self, agent: RLModule, episode: Episode, generator: torch.Generator) -> list[float] | None:
        """Return what the values count beside the reward at the states 0 to T of an episode, or None for nothing.

        The n-step targets of the values count it at the states that they bootstrap from: n, 2n, ...; 0 elsewhere.
        """
        assert episode.last_observation is not None
        states = torch.stack([*episode.observations, episode.last_observation]).to(agent.device)
        with evaluation_mode(agent):
            found = agent.value_bonus(states, generator)
        if found is None:
            return None
        if len(found) != episode.env_steps + 1:
            raise UserError(
                f"TargetStatistics: the values of {type(agent).__name__} count an entropy, which is not known at the "
                f"images of evaluation episodes; observe states, or leave the probe out"
            )
        n_step, _ = agent.data.horizon
        return [value if t and t % n_step == 0 else 0.0 for t, value in enumerate(found.tolist())]


def _actions(agent: RLModule, observations: Tensor) -> Tensor:
    """Return the actions of the evaluated policy, those of first observations as they were played."""
    if not agent.num_actions:
        return agent.act(observations, explore=False)
    actions = []
    for number in range(len(observations)):
        agent.begin_evaluation_episode(number)  # a few discrete actions are random, and the episode's own
        actions.append(agent.act(observations[number : number + 1], explore=False))
    return torch.cat(actions)


def _return(agent: RLModule, episode: Episode, bonuses: Sequence[float] | None) -> float:
    extra = [0.0] * episode.env_steps if bonuses is None else bonuses[: episode.env_steps]
    clip = math.inf if agent.data.reward_clip is None else agent.data.reward_clip
    learned = [min(max(reward, -clip), clip) for reward in episode.rewards]
    return discounted_return([r + b for r, b in zip(learned, extra, strict=True)], agent.data.horizon[1])
