"""The exceptions that are shown as a single line: wrong input, and a run that cannot go on."""

from __future__ import annotations

import contextlib
import difflib
import math
import numbers
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

LARGEST_FLOAT = 3e38
"""About the largest number in float32."""


_ON_THE_COMMAND_LINE = [False]


@contextlib.contextmanager
def command_line() -> Iterator[None]:
    """Name options as the command line has them, in what is said within: whoever calls from Python reads arguments."""
    before, _ON_THE_COMMAND_LINE[0] = _ON_THE_COMMAND_LINE[0], True
    try:
        yield
    finally:
        _ON_THE_COMMAND_LINE[0] = before


def spelled(text: str) -> str:
    """Return what is said to the user, with the names that there are where it was called from.

    Messages are written for the command line (``data.n_step=0``, ``--data.n_step 3``). In a program that is the
    argument ``n_step`` of ``RLDataModule``; the agent's and the Trainer's likewise.
    """
    if _ON_THE_COMMAND_LINE[0]:
        return text
    for pattern, in_python in _IN_PYTHON:
        text = pattern.sub(in_python, text)
    return text


def _argument(call: str, name: str | None = None) -> Callable[[re.Match[str]], str]:
    """Return what writes a match of option (its first group, or ``name``) and value as an argument of ``call``."""

    def write(match: re.Match[str]) -> str:
        *names, value = match.groups()
        return call.format(f"{name or names[0]}={_value(value)}")

    return write


def _value(text: str | None) -> str:
    if text is None:
        return "..."
    if text in ("true", "false"):
        return text.capitalize()
    return text if re.fullmatch(r"-?\d[\d.e_-]*", text) else repr(text)


_VALUE = r"(?:[ =](true|false|-?\d[\w.-]*\b|ram\b|memmap\b|device\b|pixels\b|state\b|last\b|cpu\b|[\w.-]*-true\b))?"
_IN_PYTHON = [
    (re.compile(rf"--trainer\.default_root_dir{_VALUE}"), lambda match: "make_trainer(run_dir)"),
    (re.compile(r"--data\.(task) ([\w.:-]+\b)"), _argument("RLDataModule({})")),
    (re.compile(rf"--data\.(\w+){_VALUE}"), _argument("RLDataModule({})")),
    (re.compile(rf"--(max_frames)\b{_VALUE}"), _argument("RLDataModule({})")),
    (re.compile(rf"--model\.(\w+){_VALUE}"), _argument("the agent's {}")),
    (re.compile(rf"--trainer\.(\w+){_VALUE}"), _argument("make_trainer({})")),
    (re.compile(rf"--(detect_nan)\b{_VALUE}"), _argument("make_trainer({})")),
    (re.compile(rf"--(ckpt_path)\b{_VALUE}"), _argument("fit(..., {})")),
    (re.compile(r"--agent drqv2\b"), lambda match: "DrQV2"),
    (re.compile(r"--agent sac\b"), lambda match: "SAC"),
    (re.compile(r"(?<![\w./-])(?:data|model|trainer)\.(\w+)(?==)"), lambda match: match[1]),
    (re.compile(r"(?<=there is no option ')(?:data|model|trainer)\."), lambda match: ""),
]
"""What an option of the command line is in a program."""


class _Spelled(Exception):
    """An exception whose message names options as its reader does."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*(spelled(one) if isinstance(one, str) else one for one in args))


class UserError(_Spelled, ValueError):
    """Bad input from the user: names the option, the value received, what is allowed and how to fix it.

    The command line prints only its message, without a traceback, and exits with code 2.
    """


class RunFailure(_Spelled, RuntimeError):
    """A run cannot go on through no fault of its options: a full disk, a dead simulator, a loss that is not a number.

    Says what failed, where, and which checkpoint is the last good one. The command line prints only its message and
    exits with code 1; the traceback is in ``error.txt`` in the run folder.
    """


def describe_error(error: BaseException) -> str:
    """Return the kind of an error and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def suggestion(name: str, choices: Iterable[str], *, alike: float = 0.5) -> str:
    """Return ``" Did you mean a, b?"`` for the nearest of ``choices``, or an empty string when none is ``alike``."""
    near = difflib.get_close_matches(name, list(choices), n=3, cutoff=alike)
    return f" Did you mean {', '.join(near)}?" if near else ""


# ---- checks of single options: each raises UserError with the option, the value and what is allowed ------------------
#
# ``option`` is the name as the user writes it (``data.n_step``, ``Reset.every_n_frames``). ``note`` ends the message as
# it stands, with its own punctuation: "; published: 0.3", ": at 1 every unit is reset".


def is_whole(value: Any) -> bool:
    """Return whether a value is a whole number; true and 3.0 are none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def at_least(option: str, value: float, least: float, note: str = "") -> None:
    """Refuse a count below ``least``, and what is no count: nan, a fraction, text, true."""
    if not is_whole(value) or not value >= least:
        raise UserError(f"{option}={value} must be a whole number >= {least}{note}")


def at_most(option: str, value: float, largest: float, reason: str) -> None:
    """Refuse a number above ``largest``, and say why there is a limit."""
    if value > largest:
        raise UserError(f"{option}={value} must be at most {largest}: {reason}")


def within(option: str, value: float, interval: str, note: str = "") -> None:
    """Refuse a number outside an interval such as ``[0, 1)``, ``(0, inf)`` or, with infinity, ``(0, inf]``; and nan."""
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    if not _is_number(value):
        raise UserError(f"{option}={value!r} must be a number{note}")
    above = value > low if interval[0] == "(" else value >= low
    below = value < high if interval[-1] == ")" else value <= high
    if not (above and below):
        least = f"{'>' if interval[0] == '(' else '>='} {interval[1:-1].split(',')[0]}"
        allowed = f"in {interval}" if high < math.inf else least + " and finite" * (interval[-1] == ")")
        raise UserError(f"{option}={value} must be {allowed}{note}")
    if high == math.inf > value:
        at_most(option, value, LARGEST_FLOAT, "float32, of which networks and losses are, holds no larger number")


def one_of(option: str, value: Any, choices: Collection[Any], note: str = "") -> None:
    """Refuse what is not among ``choices``, and suggest what is near."""
    if value not in list(choices):
        near = suggestion(str(value), [str(choice) for choice in choices])
        raise UserError(f"{option}={value!r} must be one of {list(choices)}{note}{'.' * bool(near)}{near}")


def listed(option: str, value: Any) -> list[Any]:
    """Return a list of what was given as one, or refuse a single name or number."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise UserError(f"{option}={value!r} must be a list: [{value!r}]")
    return list(value)


def refuse_unknown(given: Iterable[str], known: Collection[str], prefix: str = "") -> None:
    """Refuse names of options that there are not, and suggest what is near."""
    for name in given:
        if name not in known:
            near = suggestion(name, known) or f" There are {', '.join(known)}."
            raise UserError(f"there is no option {prefix + name!r}.{near}")
