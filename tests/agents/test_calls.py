"""Hooks reach those that have them and are due, and nobody else; numbers are those of calling everybody always."""

from __future__ import annotations

import pytest
from bare import BareAgent
from helpers import fit_tiny
from run_state import callback_states, differences, run_state

import callbacks
from plasticity_rl.agents.calls import calls_of
from plasticity_rl.callback import Mutation, Probe, RLCallback, ScheduledIntervention
from plasticity_rl.schedules import Events


class Counts(RLCallback):
    def __init__(self) -> None:
        self.calls = 0

    def on_update_start(self, agent) -> None:
        self.calls += 1


class DueEveryThird(Counts):
    def is_due(self, agent, hook) -> bool:
        return agent.num_updates % 3 == 0


class ReplacesTheHook(DueEveryThird):
    def on_update_start(self, agent) -> None:
        self.calls += 1


class EveryUpdate(Probe):
    """Does something at the end of every update, and knows nothing of ``is_due``."""

    ends = 0

    def on_update_end(self, agent, batch, metrics) -> None:
        self.ends += 1
        super().on_update_end(agent, batch, metrics)

    def measure(self, agent, batch, metrics):
        return {"own/updates": float(agent.num_updates)}


class Marks(ScheduledIntervention):
    def mutates(self, agent) -> Mutation:
        return Mutation()

    def act(self, agent) -> str:
        return "marked"


def test_who_is_called():
    always, third, below, probe = Counts(), DueEveryThird(), ReplacesTheHook(), EveryUpdate(every_n_updates=4)
    agent = BareAgent(always, third, below, probe)
    for seed in range(7):
        agent.step(seed)
    assert (always.calls, third.calls, below.calls) == (7, 3, 7)  # the third at updates 0, 3 and 6
    assert probe.ends == 7
    assert agent.latest["own/updates"] == 4.0


class PutsRight(Marks):
    """By family and name it would come first."""

    family = "experience"
    acts_last = True


def test_what_puts_weights_right_comes_after_all_interventions_and_before_what_only_watches():
    given = [Counts(), EveryUpdate(every_n_updates=1), PutsRight(at_frames=[0]), Marks(at_frames=[0])]
    agent = BareAgent(*given)
    called = [type(call.callback).__name__ for call in calls_of(agent, agent._callbacks, "on_update_start")]
    assert called == ["Marks", "PutsRight", "Counts", "EveryUpdate"]
    agent.step()
    assert list(agent.last_events) == ["marks", "puts_right"]


def test_all_have_built_before_one_puts_its_part_right():
    told: list[str] = []

    class BuildsAndLooks(RLCallback):
        def __init__(self, number: int) -> None:
            self.number = number

        def build(self, agent) -> None:
            told.append(f"build {self.number}")

        def after_build(self, agent) -> None:
            told.append(f"after {self.number}")

    agent = BareAgent(BuildsAndLooks(1), BuildsAndLooks(2), Counts())
    assert told == ["build 1", "build 2", "after 1", "after 2"]
    agent.build(agent._callbacks)
    assert len(told) == 4, "once per agent"


def test_a_hook_set_on_an_instance_is_called():
    heard: list[int] = []
    probe, quiet = Counts(), RLCallback()
    quiet.on_update_end = lambda agent, batch, metrics: heard.append(agent.num_updates)
    agent = BareAgent(probe, quiet)
    agent.step()
    assert heard == [1]
    assert [call.callback for call in calls_of(agent, [probe, quiet], "on_update_start")] == [probe]
    assert calls_of(agent, [probe, quiet], "on_env_step") == []


def test_who_is_not_due_is_not_called(monkeypatch):
    probe, marks = EveryUpdate(every_n_updates=5), Marks(every_n_frames=12)
    starts, events = [], []
    monkeypatch.setattr(Probe, "begin", lambda self, agent: starts.append(agent.num_updates + 1))
    agent = BareAgent(probe, marks)
    asked = Marks.on_update_start
    monkeypatch.setattr(
        Marks, "on_update_start", lambda self, agent: (events.append(agent.env_frames), asked(self, agent))
    )
    monkeypatch.setattr(Marks, "is_due", ScheduledIntervention.is_due, raising=False)
    for seed in range(10):
        agent.step(seed)
    assert starts == [5, 10]
    # 4 frames an update: the events at 12, 24 and 36 lie behind at 16, 28 and 40
    assert events == [16, 28, 40]
    assert marks.events.seen == 3


@pytest.mark.parametrize(
    "given", [lambda: [callbacks.FractionActiveUnits(every_n_updates=7), callbacks.Reset(every_n_frames=60)]]
)
def test_the_numbers_are_those_of_calling_everybody_always(given, tmp_path, monkeypatch):
    some = given()
    quick = fit_tiny(tmp_path / "quick", callbacks=some)
    monkeypatch.setattr(Events, "idle", lambda self, now: False)
    others = given()
    slow = fit_tiny(tmp_path / "slow", callbacks=others)
    assert differences(run_state(quick), run_state(slow)) == []
    assert callback_states(some) == callback_states(others)
    assert quick.latest["fau/critic"] == slow.latest["fau/critic"]
    assert quick.event_counts == slow.event_counts
    assert sum(quick.event_counts.values()) >= 2
