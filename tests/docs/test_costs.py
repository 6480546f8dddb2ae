"""The table of costs on ``docs/choosing.md``: every callback, and what the kept measurement says of it."""

from __future__ import annotations

import costs
import pytest
from costs import Cost

import callbacks


def test_every_callback_was_measured_at_full_size_or_has_a_reason():
    found = costs.measured()
    assert found["callbacks"]["size"] == "full"
    assert found["probes"]["options"] == ["--config", "configs/drqv2.yaml", "--repeats", "3"]
    assert {cost.name for cost in costs.costs(found)} | set(found["callbacks"]["left_out"]) == set(callbacks.__all__)
    assert not found["callbacks"]["failed"]


def test_an_event_is_spread_over_its_period_and_what_is_within_the_error_counts_as_nothing():
    cost = Cost("ReDo", percent=1.5, event_updates=2.0, period_updates=100, error_percent=3.0)
    assert cost.percent_on_average == pytest.approx(2.0)
    assert cost.row() == ("within 3.0 %", "2", "100", "within 3.0 %")
    often = cost._replace(period_updates=10)
    assert often.row() == ("within 3.0 %", "2", "10", "+20 %")
    every = Cost("SharpnessAware", percent=65.2, event_updates=None, period_updates=None, error_percent=3.0)
    assert every.row() == ("+65 %", "", "", "+65 %")
    assert every._replace(percent=-12.3).in_words() == "-12 %"
    small = cost._replace(event_updates=0.01)
    assert small.row()[1] == "below 0.03"


def test_a_probe_costs_nothing_between_its_measurements():
    probe = Cost("SRank", percent=0.0, event_updates=0.5, period_updates=1000, error_percent=0.0)
    assert probe.row() == ("nothing", "0.5", "1000", "+0.05 %")
    assert probe._replace(event_updates=0.01).in_words() == "below 0.01 %"


def test_what_was_not_measured_says_why():
    assert costs.costs_in_words()["ContinualTasks"] == "changes the task"
