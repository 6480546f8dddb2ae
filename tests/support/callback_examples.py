"""Every exported callback, built with the arguments with which it acts within a few updates."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from helpers import tiny_agent, tiny_data

import callbacks
from plasticity_rl import Intervention, Probe, RLModule
from plasticity_rl.callback import RLCallback

EXPORTED: list[type[RLCallback]] = [getattr(callbacks, name) for name in sorted(callbacks.__all__)]
EXPORTED.sort(key=lambda cls: getattr(cls, "stage", "") == "heads")
"""By name, those last that build whole heads: beside them nothing else is done to a head."""
PROBES = [cls for cls in EXPORTED if issubclass(cls, Probe)]
INTERVENTIONS = [cls for cls in EXPORTED if issubclass(cls, Intervention)]


def names(classes: Sequence[type]) -> list[str]:
    return [cls.__name__ for cls in classes]


def example(cls: type[RLCallback]) -> RLCallback:
    return cls(**cls.example_arguments)


@functools.cache
def untouched_agent() -> RLModule:
    return tiny_agent(tiny_data(max_frames=200))


def compatible(
    one: type[RLCallback],
    two: type[RLCallback],
    agent: RLModule | None = None,
    make: Callable[[type[RLCallback]], RLCallback] = example,
) -> bool:
    """Whether two can run together, on DrQ-v2 unless there is an agent."""
    pair, agent = [make(cls) for cls in (one, two)], agent or untouched_agent()
    if not all(isinstance(callback, Intervention) for callback in pair):
        return True
    for callback in pair:
        callback.resolve(agent)
    return all(a.conflict_with(agent, b) is None for a, b in (pair, pair[::-1]))


def examples() -> list[RLCallback]:
    """One of each, as many as go together."""
    chosen: list[type[RLCallback]] = []
    for cls in EXPORTED:
        if all(compatible(cls, other) for other in chosen):
            chosen.append(cls)
    return [example(cls) for cls in chosen]


def rescheduled(cls: type[RLCallback], frame: int) -> RLCallback:
    """The example with its event, if it has a single one, at ``frame``; a periodic one where that is possible."""
    return cls(**moved_to(frame, cls, cls.example_arguments))


def moved_to(frame: int | None, cls: type[RLCallback], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a callback with an event of theirs at ``frame``, if there is one."""
    arguments = dict(given)
    if frame is None:
        return arguments
    if "at_frame" in arguments:
        arguments["at_frame"] = frame
    if "at_frames" in arguments:
        arguments["at_frames"] = [frame]
        if "every_n_frames" in inspect.signature(cls).parameters:
            arguments["every_n_frames"] = 50
    return arguments


def that(kind: type[RLCallback] = RLCallback, *, read: str = "", write: str = "") -> list:
    """Return the exported callbacks of a kind that read and write these, as parameters of a test."""
    return [
        pytest.param(cls, id=cls.__name__)
        for cls in EXPORTED
        if issubclass(cls, kind) and (not read or read in cls.reads) and (not write or write in cls.writes)
    ]


def given(cls: type[RLCallback], **arguments) -> RLCallback:
    """Return a callback that acts or measures at the next update."""
    arguments = {**cls.example_arguments, **arguments}
    if issubclass(cls, Probe):
        arguments["every_n_updates"] = 1
    return cls(**arguments)
