"""The clocks of an agent, and the gradient updates that its env steps earn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from plasticity_rl.agents.loss_terms import TakesLossTerms
from plasticity_rl.distributed import ranks
from plasticity_rl.errors import at_least
from plasticity_rl.schedules import exact_ratio

COUNTERS = ("env_frames", "env_steps", "num_updates")
"""Clocks: simulator frames (action repeat included), agent decisions, gradient updates. Never ``global_step``."""


OF_EVERY_UPDATE = frozenset(
    {
        *COUNTERS,
        "update_credit",
        "metrics",
        "_decided_at",
        "_tick_from",
        "_next_tick",
        "_once_per_update",
        "_current_fx_name",
    }
)
"""Plain attributes that the loop sets, and Lightning (the last) around every hook that it calls."""


class KeepsTime(TakesLossTerms):
    """The part of the agent protocol that counts.

    Args:
        replay_ratio: Gradient updates per env step (agent decision), > 0; any rational is exact.
        num_seed_frames: Env frames of uniform random actions before the first update, >= 0.

    Raises:
        UserError: When one of them is out of range.
    """

    def __init__(self, *, replay_ratio: float, num_seed_frames: int) -> None:
        super().__init__()
        at_least("model.num_seed_frames", num_seed_frames, 0)
        self.num_seed_frames = num_seed_frames
        self.env_frames = self.env_steps = self.num_updates = 0
        self.updates_from_frame = 0
        """Env frame before which no update credit is earned even after the seed phase: see ``data.starts_empty``."""
        self.explores_from = (0, 0)
        """Env frame and env step at which exploration began, see :meth:`restart_exploration`."""
        self.replay_ratio = replay_ratio
        self.update_credit = Fraction(0)
        self._tick_from = self._next_tick = 0
        """Env steps of every env when the tick that is under way began; length of the next one, if it has its own."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Set plain attributes past ``nn.Module``, which looks for weights and modules in ten times the time."""
        if name in OF_EVERY_UPDATE:
            vars(self)[name] = value
        else:
            super().__setattr__(name, value)

    @property
    def replay_ratio(self) -> float:
        """Gradient updates per env step."""
        return float(self._replay_ratio)

    @replay_ratio.setter
    def replay_ratio(self, value: float) -> None:
        self._replay_ratio = exact_ratio(value)

    def advance_clocks(self, env_steps: int, frames_per_env_step: int) -> None:
        """Count this rank's env steps for all ranks, and earn update credit for those past the seed phase."""
        env_steps *= ranks.world_size_of(self)
        if self.env_frames >= max(self.num_seed_frames, self.updates_from_frame):
            self.update_credit += self._replay_ratio * env_steps
        self.env_steps += env_steps
        self.env_frames += env_steps * frames_per_env_step

    @property
    def frames_of_exploration(self) -> int:
        """Env frames since exploration began; in the first ``num_seed_frames`` actions are uniform."""
        return self.env_frames - self.explores_from[0]

    @property
    def steps_of_exploration(self) -> int:
        """Env steps since exploration began: the time of its schedule."""
        return self.env_steps - self.explores_from[1]

    def restart_exploration(self) -> None:
        """Explore as at the start of the run: a seed phase, and the schedule from its beginning."""
        self.explores_from = (self.env_frames, self.env_steps)

    def wait_for_experience(self) -> None:
        """Earn no update in the next ``num_seed_frames``: the replay is empty."""
        self.updates_from_frame = self.env_frames + self.num_seed_frames

    def every(self, steps: int) -> bool:
        """Return whether the env step that is under way completes ``steps`` (at least 1) steps of every env."""
        return self.env_steps // self.data.num_envs_of_all_ranks % max(steps, 1) == 0

    def steps_of_tick(self) -> Iterator[int]:
        """Yield once for every env step of the tick that begins: ``data.env_steps_per_tick``, up to ``max_frames``."""
        data, length = self.data, self._next_tick or self.data.env_steps_per_tick
        self._tick_from, self._next_tick = self.env_steps // data.num_envs_of_all_ranks, 0
        for step in range(length):
            yield step
            if self.env_frames >= data.max_frames:
                return

    def begin_with_tick(self, env_steps: int) -> None:
        """Let the next tick have this many env steps of every env; 0: as many as others."""
        self._next_tick = env_steps

    def every_in_tick(self, steps: int) -> bool:
        """Return what :meth:`every` was at some env step of the tick that now ends."""
        now, steps = self.env_steps // self.data.num_envs_of_all_ranks, max(steps, 1)
        return now // steps > self._tick_from // steps

    def clock_state(self) -> dict[str, Any]:
        """Return clocks and credit as plain data."""
        return {
            **{name: getattr(self, name) for name in COUNTERS},
            "updates_from_frame": self.updates_from_frame,
            "explores_from": list(self.explores_from),
            "replay_ratio": [self._replay_ratio.numerator, self._replay_ratio.denominator],
            "update_credit": [self.update_credit.numerator, self.update_credit.denominator],
        }

    def load_clock_state(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`clock_state` returned; other entries are not looked at."""
        for name in COUNTERS:
            setattr(self, name, state[name])
        self.updates_from_frame = state.get("updates_from_frame", 0)
        frames, steps = state.get("explores_from", (0, 0))
        self.explores_from = (frames, steps)
        self._replay_ratio = Fraction(*state["replay_ratio"])
        self.update_credit = Fraction(*state["update_credit"])
