"""Draw batches with weights that fall with the age of a transition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import lightning.pytorch as pl

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.callback import Intervention
from plasticity_rl.errors import UserError, at_least, within
from plasticity_rl.replay.ages import AgeWeights


class SampleWeightDecay(Intervention):
    """Sample a transition of the replay in proportion to ``max(floor, 1 - age / decay_env_steps)``.

    Under uniform sampling the share of new data in a batch falls as 1/k while the replay grows, and the gradient that
    they cause with it. Age is counted in env steps of the environment that the transition comes from. Nothing but the
    choice of training batches differs: batches of probes stay uniform, and no importance weight corrects for it.

    Mutates: nothing of the agent; which windows the replay draws. With ``floor: 1`` nothing at all.
    Logs: nothing of its own.
    Reference: Wu et al. 2026 (arXiv 2604.01913, openreview 5DpzzTPnJZ): linear decay, which did better than exponential
        and polynomial ones; decay 80000 env steps and floor 0.1 are the defaults of the authors' code, for SAC and TD3.
    Differences from the original: an n-step window has the age of its first transition. Ages are counted in records of
        the replay, which has one more per episode. The weights are drawn from exactly, without going through the
        replay. What they set for Double DQN on Atari could not be read.

    Args:
        decay_env_steps: Env steps (agent decisions) over which the weight falls, at least 1.
        floor: Weight of older transitions, in (0, 1].

    Raises:
        UserError: When a number is out of range, or the replay is prioritized, or draws on a device: that decides what
            is drawn too.
    """

    reads = frozenset()
    writes = frozenset({"experience"})
    cuda_graph = "stays"
    family = "experience"
    example_arguments: ClassVar[Mapping[str, Any]] = {"decay_env_steps": 20, "floor": 0.1}
    inert_arguments: ClassVar[Mapping[str, Any]] = {"floor": 1.0}

    def __init__(self, *, decay_env_steps: int = 80_000, floor: float = 0.1) -> None:
        at_least("SampleWeightDecay.decay_env_steps", decay_env_steps, 1)
        within("SampleWeightDecay.floor", floor, "(0, 1]", "; at 1 batches are drawn uniformly, published: 0.1")
        self.decay_env_steps, self.floor = decay_env_steps, floor

    def claims(self, agent: RLModule) -> frozenset[str]:
        """Only one intervention may weigh samples."""
        return frozenset({"weigh samples by age"})

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a replay that draws in another way before training."""
        super().setup(trainer, pl_module, stage)
        data = as_agent(pl_module).data
        if data.prioritized:
            raise UserError(
                "SampleWeightDecay: data.prioritized=true draws batches by priority already; use one of the two"
            )
        if data.draw_on_device:
            raise UserError(
                "SampleWeightDecay: data.draw_on_device=true draws transitions of any age alike; use one of the two"
            )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the replay draw by age."""
        if self.floor < 1:
            as_agent(pl_module).data.replay.weigh_by_age(AgeWeights(self.decay_env_steps, self.floor))
