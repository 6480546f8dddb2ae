"""What every callback declares about captured updates holds: beside it they end with the bits of plain ones."""

from __future__ import annotations

from typing import Any

import pytest
from agent_kinds import KINDS, with_donors
from callback_examples import EXPORTED, INTERVENTIONS, PROBES, names, rescheduled
from graph_runs import beside_plain

from plasticity_rl.agents.graph_rules import EAGER, GRAPH_RULES, INSIDE, RECAPTURES, STAYS, WATCHES, rule_of
from plasticity_rl.callback import RLCallback
from plasticity_rl.run.histograms import Histograms
from plasticity_rl.run.monitor import RunMonitor
from plasticity_rl.run.nan_guard import DetectNaN
from plasticity_rl.run.video import EvalVideo

RUN: dict[str, Any] = {"max_frames": 140}
"""50 updates of DrQ-v2 at replay ratio 1: events happen before and after the first graph."""
NOTHING_HERE = {"FrozenEncoder"}
"""Needs weights from the network; ``RandomFrozenEncoder`` is the same without."""


@pytest.mark.parametrize("cls", [*EXPORTED, DetectNaN, EvalVideo, Histograms, RunMonitor], ids=lambda cls: cls.__name__)
def test_every_callback_declares_what_it_means_for_a_captured_update(cls: type[RLCallback]):
    assert vars(cls).get("cuda_graph") in GRAPH_RULES
    if cls.writes and "loss" in cls.writes:
        assert cls.cuda_graph in (INSIDE, EAGER)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory) -> dict[str, Any]:
    return with_donors(tmp_path_factory.mktemp("donors"), "drqv2", "sac", "rainbow")


@pytest.mark.parametrize("cls", INTERVENTIONS, ids=names(INTERVENTIONS))
def test_an_intervention_keeps_what_it_declares(cls, kinds, tmp_path, monkeypatch):
    if cls.__name__ in NOTHING_HERE:
        return
    options = {**RUN, "make_agent": KINDS["drqv2"].make, "agent_options": {"replay_ratio": 1.0}}
    made: list[RLCallback] = []

    def one() -> list[RLCallback]:
        late = cls.cuda_graph == RECAPTURES  # after the first graph
        made.append(rescheduled(cls, 100) if late else kinds["drqv2"].example(cls))
        return made[-1:]

    agent, found = beside_plain(tmp_path, monkeypatch, one, **options)
    assert found == []
    counts, captures = agent.static_updates.counts, agent.static_updates.recorder.captures
    match rule_of(made[-1]):
        case "eager":
            assert counts == {"eager": agent.num_updates}
        case "watches":
            assert counts["eager"] > 0
            assert captures == 1
        case "recaptures":
            assert captures == 2
        case _:
            assert captures in (1, 2)  # a generator that is first asked for at an event is in the key
            assert counts["eager"] == 0
    assert counts["replayed"] > 0 or rule_of(made[-1]) == EAGER


@pytest.mark.parametrize("kind", ["drqv2", "sac", "rainbow"])
def test_all_that_do_not_take_part_by_python_together(kind, kinds, tmp_path, monkeypatch):
    """Probes too, every one at a period in which some updates are not looked into."""
    own = kinds[kind]

    def callbacks() -> list[RLCallback]:
        return [one for one in own.examples() if rule_of(one) != EAGER and type(one).__name__ not in NOTHING_HERE]

    data = dict(own.data)
    agent, found = beside_plain(
        tmp_path, monkeypatch, callbacks, make_agent=own.make, data_options=data, max_frames=200
    )
    assert found == []
    rules = {rule_of(one) for one in callbacks()}
    assert {STAYS, WATCHES} <= rules
    assert agent.static_updates.counts["eager"] > 0


def test_probes_that_look_into_no_update_leave_one_graph(kinds, tmp_path, monkeypatch):
    def callbacks() -> list[RLCallback]:
        return [kinds["drqv2"].example(cls) for cls in PROBES if cls.cuda_graph == STAYS]

    agent, found = beside_plain(tmp_path, monkeypatch, callbacks, max_frames=120)
    assert found == []
    assert agent.static_updates.counts["eager"] == 0
    assert agent.static_updates.recorder.captures == 1
