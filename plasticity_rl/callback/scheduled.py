"""Interventions that act at events of a schedule, and what everything with a schedule has in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import lightning.pytorch as pl

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.callback.intervention import UNDECLARED, Intervention, declares_nothing
from plasticity_rl.errors import UserError, at_least, listed
from plasticity_rl.schedules import Events


class Scheduled:
    """Part of callbacks that do something at events of a schedule: how many were due is in the checkpoint."""

    events: Events

    def period_in_updates(self, every_n_updates: int) -> Events:
        """Return the events of a period in gradient updates, the argument of that name."""
        return Events(every=every_n_updates, option=f"{type(self).__name__}.every_n_updates")

    def state_dict(self) -> dict[str, Any]:
        """Return how many events have been seen."""
        return {"seen": self.events.seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.events.seen = state_dict["seen"]


class ActsAtEvents(Scheduled):
    """Part of interventions that act at the start of the update at which an event is due.

    Where that update belongs to the last env step before an evaluation, an event that sets the agent back
    (``waits_for_evaluation``) waits until after it. There is one at the end of a run as well: one that is made longer
    does after its old end what was due in the last env step before, where a run that was longer from the start did it
    in that step, unless that has an evaluation there too.
    """

    waits_for_evaluation: ClassVar[bool] = False
    """Whether its events lower the return for a while, so that none may come right before an evaluation."""
    hears: bool = False
    """Whether it acts at what the agent announces as well (:meth:`announce`), and so may go without a schedule."""
    _announced: bool = False

    if TYPE_CHECKING:  # of the intervention that it is a part of

        @property
        def name(self) -> str:
            """As :attr:`RLCallback.name`."""

    def act(self, agent: RLModule) -> str:
        """Do it, and return one line that says what was done."""
        raise NotImplementedError

    def act_and_log(self, agent: RLModule) -> None:
        """Act, and log what was done; UserError when :meth:`act` does not say it."""
        text = self.act(agent)
        if not isinstance(text, str):
            raise UserError(
                f"{type(self).__name__}.act returned {text!r}, but must return one line of text that says what was "
                "done, such as 'critic times 0.8'"
            )
        agent.log_event(self.name, text)

    def lacks(self) -> Mapping[str, str]:
        """Return ``act`` and ``mutates``, as far as the class does not define them."""
        act = "it does what it is for and returns one line of text that says what was done"
        return {
            **({"act": act} if type(self).act is ActsAtEvents.act else {}),
            **({"mutates": UNDECLARED} if declares_nothing(type(self)) else {}),
        }

    def now(self, agent: RLModule) -> int:
        """Return the clock of the schedule."""
        raise NotImplementedError

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to count: of a run that it joins, no period that was over before is due."""
        self.events.begin(self.now(as_agent(pl_module)))

    def announce(self) -> None:
        """Note an event that no schedule knows of (the agent copied its target, or took up another task)."""
        self._announced = self.hears

    def moves_weights(self, agent: RLModule) -> bool:
        """Return whether an event is due."""
        return self._announced or self.events.due(self.now(agent))

    def is_due(self, agent: RLModule, hook: str) -> bool:
        """Return whether an event is due, or was announced."""
        return hook != "on_update_start" or self._announced or not self.events.idle(self.now(agent))

    def on_update_start(self, agent: RLModule) -> None:
        """Act when an event is due, and log it."""
        if self.waits_for_evaluation and _evaluation_follows(agent):
            return
        due, self._announced = self.events.fire(self.now(agent)) or self._announced, False
        if due:
            self.act_and_log(agent)

    def state_dict(self) -> dict[str, Any]:
        """Return how many events have been seen, and whether one was announced."""
        return {**super().state_dict(), **({"announced": self._announced} if self.hears else {})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        super().load_state_dict(state_dict)
        self._announced = state_dict.get("announced", False)


class ScheduledIntervention(ActsAtEvents, Intervention):
    """An intervention that acts at events of a schedule in env frames, or where it takes that in gradient updates.

    An event due at frame N acts at the first update after frame N, hence after the evaluation at frame N. One due after
    N updates acts at the start of the next.

    Args:
        every_n_frames: Period in env frames, or None.
        at_frames: Env frames of single events.
        every_n_updates: Period in gradient updates instead, or None.
        until_update: Last update after which such an event may be due, or None.

    Raises:
        UserError: When there is no schedule, or one on two clocks.
    """

    def __init__(
        self,
        *,
        every_n_frames: int | None = None,
        at_frames: Sequence[int] = (),
        every_n_updates: int | None = None,
        until_update: int | None = None,
    ) -> None:
        cls = type(self).__name__
        self.every_n_frames, self.at_frames = every_n_frames, listed(f"{cls}.at_frames", at_frames)
        self.every_n_updates, self.until_update = every_n_updates, until_update
        if until_update is not None:
            at_least(f"{cls}.until_update", until_update, 0)
            if every_n_updates is None:
                raise UserError(f"{cls}.until_update={until_update} ends a period in updates: give every_n_updates too")
        if every_n_updates is None:
            option = f"{cls}.every_n_frames / at_frames"
            self.events = Events(every=every_n_frames, at=self.at_frames, option=option, may_be_none=self.hears)
            return
        if every_n_frames is not None or self.at_frames:
            raise UserError(
                f"{cls}.every_n_updates={every_n_updates} and every_n_frames={every_n_frames}, "
                f"at_frames={self.at_frames} are schedules on two clocks: give one of them, or two {cls}"
            )
        self.events = Events(every=every_n_updates, option=f"{cls}.every_n_updates", until=until_update)

    def now(self, agent: RLModule) -> int:
        """Return the clock of the schedule: env frames, or the number of the update that now starts, from 1."""
        return agent.env_frames if self.every_n_updates is None else agent.num_updates + 1


class UpdateIntervention(ActsAtEvents, Intervention):
    """An intervention that acts after every ``every_n_updates`` gradient updates, at the start of the next one.

    Args:
        every_n_updates: Period in gradient updates.
    """

    def __init__(self, *, every_n_updates: int) -> None:
        self.every_n_updates = every_n_updates
        self.events = self.period_in_updates(every_n_updates)

    def now(self, agent: RLModule) -> int:
        """Return the number of the update that now starts, counted from 1."""
        return agent.num_updates + 1


def _evaluation_follows(agent: RLModule) -> bool:
    frames, data = agent.env_frames, agent.data
    return frames % data.eval_every_n_frames == 0 or frames >= data.max_frames
