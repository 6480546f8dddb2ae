"""A short and steeply discounted return after every reset, which grows longer again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import lightning.pytorch as pl
from tensordict import TensorDictBase

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.callback import Intervention, Mutation
from plasticity_rl.data.options import refuse_long_return
from plasticity_rl.errors import UserError, at_least, within
from plasticity_rl.replay.layout import refuse_small_capacity
from plasticity_rl.schedules import geometric


class AnnealHorizon(Intervention):
    """Start from another n-step return and discount, and move to those of the data over ``num_updates`` updates.

    At update k since the start of training, or since the last reset of the values, with ``b = max(1 - k / num_updates,
    0)``: ``n = round(first_n_step^b * data.n_step^(1 - b))`` and ``1 - gamma = (1 - first_discount)^b * (1 -
    data.discount)^(1 - b)``. Fresh value heads learn from long returns, which need no good bootstrap, over a near
    future; later from short ones over a far future.

    A reset of the values is whatever gives whole layers of the module of the values fresh weights (``Reset``): a move
    towards fresh weights (``ShrinkAndPerturb``) or recycled units do not start it again. The replay stores single
    steps, so everything that was collected is read with the new n and discount at once, also by probes.

    Mutates: nothing of the agent; the n-step and discount with which the replay makes batches, and where it is
        prioritized the priorities of windows that are complete with one n and not with another. With neither
        ``first_n_step`` nor ``first_discount`` nothing at all.
    Logs: ``intervention/anneal_horizon`` (1 at the frame of a restart) with a line of text, and
        ``intervention/anneal_horizon/n_step`` and ``intervention/anneal_horizon/discount`` every
        ``trainer.log_every_n_steps`` env steps.
    Reference: Schwarzer et al. 2023 (BBF, arXiv 2305.19452): n from 10 to 3 and the discount from 0.97 to 0.997 over
        the first 10 000 gradient steps after every reset; the formula is that of the authors' code.
    Differences from the original: n and discount hold for the very batch of an update, which they prefetch. With a
        prioritized replay, windows that only the smaller n completes (ends of episodes by a time limit) have the
        largest priority whenever it comes round.

    Args:
        first_n_step: Steps of the return at the start and after a reset, at least ``data.n_step``; None: that.
        first_discount: Discount there, in [0, 1); None: ``data.discount``, which has to be below 1 too.
        num_updates: Gradient updates until those of the data are reached.

    Raises:
        UserError: When a number is out of range, or ``data.overlap`` is on: that draws batches before the update.
    """

    cuda_graph = "stays"
    reads = frozenset()
    writes = frozenset({"experience"})
    family = "experience"
    example_arguments: ClassVar[Mapping[str, Any]] = {"first_n_step": 5, "first_discount": 0.5, "num_updates": 20}
    inert_arguments: ClassVar[Mapping[str, Any]] = {"first_n_step": None, "first_discount": None}

    def __init__(
        self, *, first_n_step: int | None = 10, first_discount: float | None = 0.97, num_updates: int = 10_000
    ) -> None:
        if first_n_step is not None:
            at_least("AnnealHorizon.first_n_step", first_n_step, 1, "; published: 10")
        if first_discount is not None:
            within("AnnealHorizon.first_discount", first_discount, "[0, 1)", "; published: 0.97")
        at_least("AnnealHorizon.num_updates", num_updates, 1, "; published: 10000")
        self.first_n_step, self.first_discount, self.num_updates = first_n_step, first_discount, num_updates
        self._since = 0
        self._now: tuple[int, float] | None = None

    @property
    def _acts(self) -> bool:
        return self.first_n_step is not None or self.first_discount is not None

    def claims(self, agent: RLModule) -> frozenset[str]:
        """Only one intervention may set the horizon."""
        return frozenset({"set n-step and discount"})

    def mutates(self, agent: RLModule) -> Mutation:
        """The priorities of windows that another n completes, or no longer."""
        return Mutation(replay=self.first_n_step is not None)

    def tags(self) -> frozenset[str]:
        """Return the tags of n and the discount."""
        return frozenset(f"intervention/{self.name}/{what}" for what in ("n_step", "discount") if self._acts)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what does not fit the data, before training."""
        super().setup(trainer, pl_module, stage)
        data = as_agent(pl_module).data
        if self._acts and data.overlap:
            raise UserError(
                "AnnealHorizon: data.overlap=true begins a batch before the update that sets its n-step and discount, "
                "so they cannot be used together; leave data.overlap off"
            )
        if self.first_n_step is not None:
            at_least("AnnealHorizon.first_n_step", self.first_n_step, data.n_step, ", data.n_step, to which it anneals")
            refuse_long_return("AnnealHorizon.first_n_step", self.first_n_step, data.environment, data.episode_steps)
            sizes = (data.capacity, data.num_envs, data.stacked_frames, self.first_n_step)
            refuse_small_capacity(*sizes, " of AnnealHorizon.first_n_step", data.world_size)
        if self.first_discount is not None:
            within("data.discount", data.discount, "[0, 1)", ": AnnealHorizon interpolates log(1 - discount)")

    def horizon(self, agent: RLModule) -> tuple[int, float]:
        """Return n and the discount of the update that now starts."""
        data, n_step, discount = agent.data, agent.data.n_step, agent.data.discount
        progress = (agent.num_updates - self._since) / self.num_updates
        if self.first_n_step is not None:
            n_step = round(geometric(self.first_n_step, data.n_step, progress))
        if self.first_discount is not None:
            discount = 1.0 - geometric(1.0 - self.first_discount, 1.0 - data.discount, progress)
        return n_step, discount

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with the first horizon, before anything is sampled; go on with that of the checkpoint."""
        agent = as_agent(pl_module)
        horizon, self._now = self._now or self.horizon(agent), None
        if self._acts:
            self._set(agent, horizon)

    def on_update_start(self, agent: RLModule) -> None:
        """Set the horizon of this update's batch."""
        if self._acts:
            self._set(agent, self.horizon(agent))

    def on_weights_jumped(self, agent: RLModule, jump: Any) -> None:
        """Begin again when whole layers of the values are fresh: a reset acts after ``on_update_start`` of this one."""
        if self._acts and any(name.partition(".")[0] == agent.value_module for name in jump.renewed):
            self._since = agent.num_updates
            self._set(agent, self.horizon(agent))
            n_step, discount = self.horizon(agent)
            agent.log_event(self.name, f"n-step {n_step} and discount {discount:g} at frame {agent.env_frames}")

    def on_env_step(self, agent: RLModule, step: TensorDictBase) -> None:
        """Log n and the discount."""
        if self._now is not None and agent.every(agent.trainer.log_every_n_steps):  # type: ignore[attr-defined]
            n_step, discount = self._now
            tag = f"intervention/{self.name}"
            agent.log_scalars({f"{tag}/n_step": float(n_step), f"{tag}/discount": discount})

    def _set(self, agent: RLModule, horizon: tuple[int, float]) -> None:
        before = self._now
        if horizon != before:
            agent.data.set_horizon(*horizon)
            if before is not None and horizon[0] > before[0] and not self._can_sample(agent):
                agent.data.set_horizon(*before)  # the update that waits for its batch takes what there is
                return
        self._now = horizon

    def _can_sample(self, agent: RLModule) -> bool:
        return bool(agent.trainer.strategy.reduce_boolean_decision(agent.data.replay.has_window))

    def state_dict(self) -> dict[str, Any]:
        """Return when it last began again, and the present horizon: evaluations after a resume are read with it."""
        return {"since": self._since, "now": None if self._now is None else list(self._now)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self._since, now = state_dict["since"], state_dict["now"]
        self._now = None if now is None else (int(now[0]), float(now[1]))
