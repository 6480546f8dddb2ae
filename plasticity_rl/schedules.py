"""Two kinds of schedule: a value that changes with env steps, and events at given moments."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from plasticity_rl.errors import UserError, is_whole

LARGEST_DENOMINATOR = 1_000_000
"""Of replay ratios as fractions; a smaller ratio than one in as many is no ratio."""

MAX_REPLAY_RATIO = 1000
"""Updates per env step; the largest published is 128 (D'Oro et al. 2023). At 1000 a million frames of action repeat 2
are 500 million updates."""

Schedule = Callable[[int], float]

_NUMBER = r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*"
_LINEAR = re.compile(rf"linear\({_NUMBER},{_NUMBER},{_NUMBER}\)")
_STEP_LINEAR = re.compile(rf"step_linear\({_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\)")


def parse_schedule(text: str | float, *, option: str = "stddev_schedule") -> Schedule:
    """Turn a schedule's text into a function of a step count.

    Args:
        text: A number (constant), ``linear(start,end,duration)`` or
            ``step_linear(start,middle,duration1,end,duration2)``. Durations are in env steps (agent decisions), as in
            the published DrQ-v2.
        option: Name of the option, for the error message.

    Returns:
        A function ``env_steps -> value``. Past the last duration the value stays at its end.

    Raises:
        UserError: When the text is none of these forms or a duration is not positive.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    text = str(text)
    if math.isfinite(number):
        return _Constant(number)
    if match := _LINEAR.fullmatch(text.strip()):
        start, end, duration = map(float, match.groups())
        segments = [(start, end, duration)]
    elif match := _STEP_LINEAR.fullmatch(text.strip()):
        start, middle, duration1, end, duration2 = map(float, match.groups())
        segments = [(start, middle, duration1), (middle, end, duration2)]
    else:
        raise UserError(
            f"{option}={text!r} is not a schedule: give a number, 'linear(start,end,duration)' or "
            "'step_linear(start,middle,duration1,end,duration2)' with durations in env steps"
        )
    if not all(math.isfinite(number) for segment in segments for number in segment):
        raise UserError(f"{option}={text!r} must be of finite numbers; 1e400 and the like are infinite")
    if any(duration <= 0 for *_, duration in segments):
        raise UserError(f"{option}={text!r} has a duration that is not positive: durations are env steps > 0")
    return _Piecewise(tuple(segments))


def corners(schedule: Schedule) -> list[float]:
    """Return the values between which those of a schedule of :func:`parse_schedule` lie."""
    if isinstance(schedule, _Constant):
        return [schedule.number]
    assert isinstance(schedule, _Piecewise)
    return [value for start, end, _ in schedule.segments for value in (start, end)]


def geometric(start: float, end: float, progress: float) -> float:
    """Return ``start^(1 - progress) * end^progress``: evenly in the logarithm; past 1 it stays at the end.

    Args:
        start: Value at the beginning, > 0.
        end: Value at the end, > 0.
        progress: Share of the way, >= 0.
    """
    if not 0 < progress < 1:  # exactly the ends
        return start if progress <= 0 else end
    return math.exp((1.0 - progress) * math.log(start) + progress * math.log(end))


def exact_ratio(value: float, *, option: str = "replay_ratio") -> Fraction:
    """Return a replay ratio, gradient updates per env step, as the fraction that its decimals stand for.

    0.333333333 is 1/3, and credit then adds up exactly.

    Raises:
        UserError: When it is not a number > 0, or beyond ``MAX_REPLAY_RATIO``.
    """
    ratio = Fraction(value).limit_denominator(LARGEST_DENOMINATOR) if math.isfinite(value) else Fraction(0)
    if ratio <= 0:
        raise UserError(f"{option}={value} must be > 0 and finite (gradient updates per env step; published: 0.5)")
    if ratio > MAX_REPLAY_RATIO:
        raise UserError(
            f"{option}={value} must be at most {MAX_REPLAY_RATIO} (gradient updates per env step; published: 0.5, and "
            "not more than 128 anywhere): no run would get far"
        )
    return ratio


@dataclass(frozen=True)
class _Constant:
    """A number at every env step; a class, so that agents can be pickled."""

    number: float

    def __call__(self, env_steps: int) -> float:
        return self.number


@dataclass(frozen=True)
class _Piecewise:
    """Linear from start to end within each duration in env steps, one after the other, then constant."""

    segments: tuple[tuple[float, float, float], ...]

    def __call__(self, env_steps: int) -> float:
        offset = float(env_steps)
        for start, end, duration in self.segments:
            if offset < duration:
                mix = offset / duration
                return (1.0 - mix) * start + mix * end
            offset -= duration
        return self.segments[-1][1]


class Events:
    """Counts the events of a periodic or listed schedule, so that none fires twice or is lost by a resume.

    Args:
        every: Period, or None.
        at: Single moments.
        option: Name of the options, for error messages.
        may_be_none: Whether neither may be given: no event then.
        until: Last moment at which an event of the period can be due; None: there is none.

    Raises:
        UserError: When a period is no positive whole number, a moment is negative, or neither is given.
    """

    def __init__(
        self,
        *,
        every: int | None,
        at: Sequence[int] = (),
        option: str,
        may_be_none: bool = False,
        until: int | None = None,
    ) -> None:
        if every is None and not at and not may_be_none:
            raise UserError(f"{option}: no schedule given; set a period or a list of moments")
        if every is not None and (not is_whole(every) or every <= 0):
            raise UserError(f"{option}: the period is {every}, but must be a whole number > 0")
        if isinstance(at, int | float) or not all(is_whole(moment) for moment in at):
            raise UserError(f"{option}: moments are {at}, but must be a list of whole numbers")
        if any(moment < 0 for moment in at):
            raise UserError(f"{option}: moments are {list(at)}, but must not be negative")
        self.every, self.at, self.until = every, tuple(sorted(at)), sys.maxsize if until is None else until
        self.seen = 0
        self._counts = False

    @property
    def seen(self) -> int:
        """How many events lay behind at the last :meth:`fire`."""
        return self._seen

    @seen.setter
    def seen(self, value: int) -> None:
        self._seen, self._counts = value, True
        self._idle_from = self._idle_until = 0

    def begin(self, now: int) -> None:
        """Count from ``now`` on, if nothing was counted or loaded yet: what joins a run missed the periods before.

        They are not due. Single moments before ``now`` are: who names one that is over wants it to happen.
        """
        if not self._counts:
            self.seen = self._periods(now)

    def idle(self, now: int) -> bool:
        """Return whether :meth:`fire` would change nothing, in no time until the next event."""
        if self._idle_from <= now < self._idle_until:
            return True
        if self.passed(now) != self._seen:
            return False
        self._idle_from, self._idle_until = now, self.first_after(now)
        return True

    def first_after(self, now: int) -> int:
        """Return the first moment after ``now`` at which one more event lies behind; ``sys.maxsize`` if none will."""
        periodic = [(max(now - 1, 0) // self.every + 1) * self.every + 1] if self.every else []
        periodic = [moment for moment in periodic if moment <= self.until + 1]
        return min([*periodic, *(moment + 1 for moment in self.at if moment + 1 > now)], default=sys.maxsize)

    def passed(self, now: int) -> int:
        """Return how many events lie strictly before ``now``."""
        return self._periods(now) + sum(moment < now for moment in self.at)

    def _periods(self, now: int) -> int:
        return min(max(now - 1, 0), self.until) // self.every if self.every else 0

    def due(self, now: int) -> bool:
        """Return what :meth:`fire` would, and count nothing."""
        return self.passed(now) > self.seen

    def fire(self, now: int) -> bool:
        """Return whether an event has passed since the last call. Several at once (a long seed phase) fire once."""
        passed = self.passed(now)
        due, self.seen = passed > self.seen, passed
        return due
