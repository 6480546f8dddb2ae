from __future__ import annotations

import sys

import pytest

from plasticity_rl.errors import UserError
from plasticity_rl.schedules import Events, corners, parse_schedule


@pytest.mark.parametrize("text", [0.2, "0.2", " 0.2 ", "2e-1"])
def test_a_number_is_a_constant(text: str | float):
    value = parse_schedule(text)
    assert (value(0), value(10**9)) == (0.2, 0.2)


@pytest.mark.parametrize("text", ["linear(1.0,0.1,500000)", " linear( 1 , .1 , 5e5 ) "])
def test_linear_at_start_middle_end_and_after(text: str):
    value = parse_schedule(text)
    assert value(0) == 1.0
    assert value(125_000) == pytest.approx(0.775)
    assert value(250_000) == pytest.approx(0.55)
    assert value(499_999) == pytest.approx(0.1, abs=1e-5)
    assert value(500_000) == value(10**9) == 0.1


def test_linear_may_rise():
    assert parse_schedule("linear(-1,3,8)")(6) == pytest.approx(2.0)


def test_step_linear_in_both_segments():
    value = parse_schedule("step_linear(1.0,0.5,100,0.1,400)")
    assert value(0) == 1.0
    assert value(50) == pytest.approx(0.75)
    assert value(100) == pytest.approx(0.5)
    assert value(300) == pytest.approx(0.3)  # halfway through the second segment
    assert value(500) == value(501) == 0.1


@pytest.mark.parametrize("text", ["", "linear(1,0)", "cosine(1,0,5)", "linear(1,0,5)x", "linear(a,0,5)", "nan", "-inf"])
def test_other_texts_are_refused_with_the_option_and_the_choices(text: str):
    with pytest.raises(UserError, match=r"noise=.* is not a schedule.*linear\(start,end,duration\)"):
        parse_schedule(text, option="noise")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(value: float):
    with pytest.raises(UserError, match="is not a schedule"):
        parse_schedule(value)


@pytest.mark.parametrize("text", ["linear(1,0,0)", "linear(1,0,-5)", "step_linear(1,0.5,100,0.1,0)"])
def test_durations_that_are_not_positive_are_refused(text: str):
    with pytest.raises(UserError, match="duration that is not positive"):
        parse_schedule(text)


# ---- events ---------------------------------------------------------------------------------------------------------


def fired(events: Events, moments: range | list[int]) -> list[int]:
    return [now for now in moments if events.fire(now)]


@pytest.mark.parametrize(
    ("text", "lowest", "highest"),
    [("0.4", 0.4, 0.4), ("linear(0.4,1,10)", 0.4, 1), ("step_linear(1,-2,5,3,5)", -2, 3)],
)
def test_values_lie_between_the_corners(text: str, lowest: float, highest: float):
    schedule = parse_schedule(text)
    values = [schedule(step) for step in range(20)]
    assert min(corners(schedule)) == lowest == min(values)
    assert max(corners(schedule)) == highest == max(values)


def test_periodic_events_fire_at_the_first_moment_after_each_multiple_and_not_at_zero():
    # At now = 11 one call has passed the event at 10: the first moment at which it lies strictly in the past.
    assert fired(Events(every=10, option="x"), range(0, 35)) == [11, 21, 31]


def test_periodic_events_on_a_coarse_clock():
    assert fired(Events(every=10, option="x"), range(0, 61, 4)) == [12, 24, 32, 44, 52]


def test_period_one_fires_at_every_moment_from_two_on():
    assert fired(Events(every=1, option="x"), range(0, 6)) == [2, 3, 4, 5]


def test_listed_events_fire_once_each_also_unsorted_and_at_zero():
    assert fired(Events(every=None, at=[7, 0, 3], option="x"), range(0, 12)) == [1, 4, 8]


def test_several_events_passed_at_once_fire_once():
    events = Events(every=10, at=[15], option="x")
    assert fired(events, [5, 45, 46, 50, 51]) == [45, 51]
    assert events.seen == 6  # 10, 15, 20, 30, 40, 50


def test_passed_counts_what_lies_strictly_before():
    events = Events(every=10, at=[15, 20], option="x")
    assert [events.passed(now) for now in (0, 10, 11, 15, 16, 20, 21)] == [0, 0, 1, 1, 2, 2, 4]


def test_passed_does_not_consume():
    events = Events(every=10, option="x")
    assert events.passed(25) == 2
    assert events.fire(25)


@pytest.mark.parametrize("stop", range(0, 40))
def test_a_copy_with_the_same_count_continues_where_it_stopped(stop: int):
    def make() -> Events:
        return Events(every=7, at=[0, 13, 14], option="x")

    whole = fired(make(), range(0, 41))
    first, second = make(), make()
    head = fired(first, range(0, stop))
    second.seen = first.seen
    assert head + fired(second, range(stop, 41)) == whole == [1, 8, 14, 15, 22, 29, 36]


@pytest.mark.parametrize(
    ("every", "at", "message"),
    [
        (None, [], "no schedule given"),
        (0, [], "must be a whole number > 0"),
        (-3, [5], "must be a whole number > 0"),
        (None, [3, -1], "must not be negative"),
    ],
)
def test_bad_schedules_are_refused_with_the_option(every: int | None, at: list[int], message: str):
    with pytest.raises(UserError, match=f"Reset.every_n_frames.*{message}"):
        Events(every=every, at=at, option="Reset.every_n_frames")


@pytest.mark.parametrize("schedule", [{"every": 10}, {"every": None, "at": [7, 30]}, {"every": 12, "at": [0, 24, 25]}])
@pytest.mark.parametrize("stride", [1, 4, 13])
def test_a_schedule_that_is_left_alone_while_idle_fires_at_the_same_moments(schedule, stride):
    always, left_alone = Events(option="x", **schedule), Events(option="x", **schedule)
    moments = range(0, 100, stride)
    calls = []
    for now in moments:
        if not left_alone.idle(now):
            calls.append(now)
            assert left_alone.fire(now)
    assert calls == fired(always, moments)
    assert left_alone.seen == always.seen


def test_a_schedule_is_idle_between_two_events_only():
    events = Events(every=10, at=[25], option="x")
    assert [events.first_after(now) for now in (0, 10, 11, 21, 25, 26, 31)] == [11, 11, 21, 26, 26, 31, 41]
    assert events.idle(10)
    assert not events.idle(11)
    events.fire(11)
    assert events.idle(12)
    assert events.idle(20)
    assert not events.idle(21)
    events.seen = 5  # of a run with a shorter period: the next call counts anew
    assert not events.idle(12)
    assert Events(every=None, at=[3], option="x").first_after(4) == sys.maxsize


@pytest.mark.parametrize("until", [0, 1, 9, 10, 11, 30])
def test_a_period_ends_with_its_last_moment(until: int):
    """Against a list of the moments, at every clock; idle() never sleeps through an event."""
    events = Events(every=10, at=(4, 35), option="x", until=until)
    moments = sorted([4, 35, *(m for m in (10, 20, 30, 40) if m <= until)])
    for now in range(50):
        before = [m for m in moments if m < now]
        assert events.passed(now) == len(before)
        following = [m + 1 for m in moments if m + 1 > now]
        assert events.first_after(now) == min(following, default=sys.maxsize)
        assert events.idle(now) == (len(before) == events.seen)
        assert events.fire(now) == (now - 1 in moments)
