"""Raise the replay ratio once the critic's plasticity has recovered and settled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import lightning.pytorch as pl
import torch
from tensordict import TensorDictBase
from torch import Tensor

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.callback import Intervention, Mutation
from plasticity_rl.callback.unit_activity import ActiveUnitCounter
from plasticity_rl.errors import UserError, at_least, one_of
from plasticity_rl.measures import pooled_fraction
from plasticity_rl.nn.layers import LEARNS
from plasticity_rl.schedules import Events, exact_ratio

AVERAGES = ("episode", "window")
INTERVALS = ("every_n_episodes", "every_n_env_steps", "every_n_updates")
PUBLISHED_EPISODES = 50


class AdaptiveReplayRatio(Intervention):
    """Train at a low replay ratio until the fraction of active units (FAU) stops changing, then at a high one.

    Every ``every_n_episodes`` training episodes, ``every_n_env_steps`` env steps or ``every_n_updates`` updates the
    module's mean FAU is compared with the one at the check before (at the first check, with the FAU of the very first
    update). When they differ by at most ``threshold``, the replay ratio becomes ``high``.

    Units that learn count. When those become others (an injection of plasticity) the average starts over, and the next
    check finds nothing settled. A module whose activations pin FAU (CReLU) is refused.

    Mutates: ``agent.replay_ratio``: ``low`` at the start of a new run, ``high`` from the switch on. No weight.
    Logs: ``intervention/adaptive_replay_ratio`` (1 at the frame of a switch) with a line of text, and
        ``intervention/adaptive_replay_ratio/fau`` at every check.
    Reference: Ma et al. 2024 (arXiv 2310.07418), section 5, Algorithm 1; the defaults are theirs for DeepMind Control
        (50 episodes = 50 000 env frames). As in their code the mean covers the last episode of each window only, and
        the switch happens once. On Atari they give an interval of 2000 and the same threshold, ratios and module; in
        which unit the interval is they do not say, nor what the mean covers.
        With several environments or ranks the episodes of all count, the last episode is the last one of each
        environment, and FAU is the mean over ranks.
    Differences from the original: the average begins with the update after an episode's end, theirs one update later.
        ``average_over="window"``, ``min_recovery`` and ``one_way=False`` are additions, and so are intervals in env
        steps and updates, after which the mean covers the whole window.

    Args:
        low: Replay ratio before the switch, gradient updates per env step, > 0.
        high: Replay ratio after the switch.
        every_n_episodes: Episodes between two checks; None for 50, or where one of the next two is given.
        every_n_env_steps: Env steps (agent decisions) between two checks, those of the seed phase included, or None.
        every_n_updates: Gradient updates between two checks, or None.
        threshold: Largest change of FAU between two checks that counts as settled, in FAU (0 to 1).
        module: Module by dotted name whose FAU is watched.
        average_over: ``episode`` averages over the last episode before a check (published), ``window`` over all
            updates since the check before; None for ``episode`` where the interval is in episodes, else ``window``.
        min_recovery: Switch only while FAU is at least this fraction of its initial value, so that a critic that
            collapsed for good does not count as settled. 0 reproduces the paper.
        one_way: Never switch back. Otherwise a check with a larger change goes back to ``low``.

    Raises:
        UserError: When a number is out of range, several intervals are given, or an average over episodes of an
            interval in another unit.
    """

    reads = frozenset({"units"})
    writes = frozenset({"settings"})
    cuda_graph = "watches"
    family = "replay_ratio"
    acts_on = "fraction of active units"
    example_arguments: ClassVar[Mapping[str, Any]] = {
        "high": 1.0,
        "every_n_episodes": 1,
        "threshold": 1.0,
        "module": "actor",
    }
    inert_arguments: ClassVar[Mapping[str, Any]] = {"every_n_episodes": 10**9}

    def __init__(
        self,
        *,
        low: float = 0.5,
        high: float = 2.0,
        every_n_episodes: int | None = None,
        every_n_env_steps: int | None = None,
        every_n_updates: int | None = None,
        threshold: float = 0.001,
        module: str = "critic",
        average_over: Literal["episode", "window"] | None = None,
        min_recovery: float = 0.0,
        one_way: bool = True,
    ) -> None:
        for name, value in {"low": low, "high": high}.items():
            exact_ratio(value, option=f"AdaptiveReplayRatio.{name}")  # not in the middle of the run
        if every_n_env_steps is None and every_n_updates is None and every_n_episodes is None:
            every_n_episodes = PUBLISHED_EPISODES
        self.every_n_episodes, self.every_n_env_steps = every_n_episodes, every_n_env_steps
        self.every_n_updates = every_n_updates
        self._checks = self._interval()
        if average_over is None:
            average_over = "window" if self.every_n_episodes is None else "episode"
        one_of("AdaptiveReplayRatio.average_over", average_over, AVERAGES)
        if average_over == "episode" and self.every_n_episodes is None:
            raise UserError(
                "AdaptiveReplayRatio.average_over='episode' averages over the last episode of an interval in episodes: "
                "give every_n_episodes, or average_over='window'"
            )
        if not threshold >= 0 or not 0 <= min_recovery <= 1:
            raise UserError(
                f"AdaptiveReplayRatio: threshold={threshold} must be >= 0 and min_recovery={min_recovery} in [0, 1]"
            )
        self.low, self.high, self.threshold = low, high, threshold
        self.module, self.average_over, self.min_recovery, self.one_way = module, average_over, min_recovery, one_way
        self.episodes = 0
        self.switched = False
        self.initial: float | None = None
        self.previous: float | None = None
        self._sum: Tensor = torch.zeros(())
        self._count = 0
        self._layers: list[str] = []
        self._counter = ActiveUnitCounter([module], LEARNS)
        self._measuring = False

    def _interval(self) -> Events:
        """Return the checks that are due by the one interval that was given."""
        intervals = {name: getattr(self, name) for name in INTERVALS if getattr(self, name) is not None}
        if len(intervals) > 1:
            raise UserError(
                f"AdaptiveReplayRatio: {' and '.join(f'{k}={v}' for k, v in intervals.items())} are intervals of one "
                "check in several units: give one of them"
            )
        ((name, every),) = intervals.items()
        at_least(f"AdaptiveReplayRatio.{name}", every, 1)
        return Events(every=every, option=f"AdaptiveReplayRatio.{name}")

    @property
    def only_from_the_start(self) -> bool:
        """A run begins with ``low``, and its first update gives the fraction that later ones compare with."""
        return True

    def watched_modules(self) -> Sequence[str]:
        """Return the module whose FAU it watches."""
        return [self.module]

    def tags(self) -> frozenset[str]:
        """Return the tag of what it watches."""
        return frozenset([f"intervention/{self.name}/fau"])

    def claims(self, agent: RLModule) -> frozenset[str]:
        """Only one intervention may set the replay ratio."""
        return frozenset({"set the replay ratio"})

    def mutates(self, agent: RLModule) -> Mutation:
        """The replay ratio."""
        return Mutation(attributes=frozenset({"replay_ratio"}))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a module without hidden units."""
        super().setup(trainer, pl_module, stage)
        self._counter.refuse_unknown(as_agent(pl_module), "AdaptiveReplayRatio.module")

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start a new run at the low replay ratio; a resumed run keeps its own."""
        agent = as_agent(pl_module)
        self._sum = self._sum.to(agent.device)  # a check may come before the first update
        if agent.env_frames == 0:
            agent.replay_ratio = self.low

    def on_update_start(self, agent: RLModule) -> None:
        """Measure the first update of all, and every update of the episodes that are averaged over."""
        watching = not (self.switched and self.one_way)
        in_average = watching and self._in_average(agent)
        self._measuring = in_average or self.initial is None
        if self._measuring:
            self._counter.start(agent)

    def on_update_end(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> None:
        """Accumulate on the device; only the first value is read back."""
        if not self._measuring:
            return
        counts = self._counter.stop()[self.module]
        fau = pooled_fraction(counts.values())
        if list(counts) != self._layers:
            if self._layers:  # other units learn now: no change of theirs is known yet, so nothing has settled
                self.previous, self._sum, self._count = math.nan, torch.zeros(()), 0
            self._layers = list(counts)
        if self.initial is None:  # what the first check compares with, so it must be equal on all ranks as well
            self.initial = self.previous = float(agent.trainer.strategy.reduce(fau, reduce_op="mean"))
        self._sum = self._sum.to(fau.device) + fau
        self._count += 1
        if self.every_n_updates is not None:
            self._end_window(agent, agent.num_updates)

    def on_env_step(self, agent: RLModule, step: TensorDictBase) -> None:
        """Check at the end of a window in env steps."""
        if self.every_n_env_steps is not None:
            self._end_window(agent, agent.env_steps)

    def on_episode_end(self, agent: RLModule, episode_return: float, env_steps: int) -> None:
        """Check at the end of a window in episodes, and start the next average at the beginning of its episode."""
        self.episodes += 1
        if self.every_n_episodes is None:
            return
        if self._checks.fire(self.episodes + 1):
            self._check(agent)
        if self.episodes % self.every_n_episodes == self._averaged_from(agent, self.every_n_episodes):
            self._sum, self._count = torch.zeros(()), 0

    def _end_window(self, agent: RLModule, now: int) -> None:
        """Check once ``now`` of the units of the interval are over, and begin the next average."""
        if self._checks.fire(now + 1):
            self._check(agent)
            self._sum, self._count = torch.zeros(()), 0

    def _in_average(self, agent: RLModule) -> bool:
        every = self.every_n_episodes
        return every is None or self.episodes % every >= self._averaged_from(agent, every)

    def _averaged_from(self, agent: RLModule, every_n_episodes: int) -> int:
        """Return how many episodes of a window are over when its average begins; environments end theirs together."""
        return max(every_n_episodes - agent.data.num_envs_of_all_ranks, 0) if self.average_over == "episode" else 0

    def _check(self, agent: RLModule) -> None:
        if not self._count:  # the seed phase, or a one-way switch is done
            return
        # All ranks must switch at the same update, or their collectives no longer match.
        fau = float(agent.trainer.strategy.reduce(self._sum / self._count, reduce_op="mean"))
        agent.log_scalars({f"intervention/{self.name}/fau": fau})
        settled = self.settled(fau)
        self.previous = fau
        if settled and not self.switched:
            self._set(agent, self.high, f"FAU of the {self.module} settled at {fau:.4f}")
        elif not settled and self.switched and not self.one_way:
            self._set(agent, self.low, f"FAU of the {self.module} moved to {fau:.4f}")

    def settled(self, fau: float) -> bool:
        """Return whether FAU differs from the check before by at most ``threshold`` and has recovered enough."""
        assert self.previous is not None
        assert self.initial is not None
        return abs(fau - self.previous) <= self.threshold and fau >= self.min_recovery * self.initial

    def _set(self, agent: RLModule, replay_ratio: float, reason: str) -> None:
        self.switched = replay_ratio == self.high
        agent.replay_ratio = replay_ratio
        agent.log_event(self.name, f"replay ratio {replay_ratio:g} at frame {agent.env_frames}: {reason}")

    def state_dict(self) -> dict[str, Any]:
        """Return counters, sums and the FAU of the last check."""
        names = ("episodes", "switched", "initial", "previous", "_count", "_layers")
        own = {name: getattr(self, name) for name in names}
        return {"_sum": self._sum.clone(), "checks": self._checks.seen, **own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        own = dict(state_dict)
        # Checkpoints from when every interval was in episodes do not count the checks.
        self._checks.seen = own.pop("checks", own["episodes"] // (self.every_n_episodes or 1))
        for name, value in own.items():
            setattr(self, name, value)
