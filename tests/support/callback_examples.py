"""Every exported callback, built with the arguments with which it acts within a few updates."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from helpers import tiny_agent, tiny_data

import callbacks
from plasticity_rl import Intervention, Probe, RLModule
from plasticity_rl.callback import RLCallback

EXPORTED: list[type[RLCallback]] = [getattr(callbacks, name) for name in sorted(callbacks.__all__)]
PROBES = [cls for cls in EXPORTED if issubclass(cls, Probe)]
INTERVENTIONS = [cls for cls in EXPORTED if issubclass(cls, Intervention)]


def names(classes: Sequence[type]) -> list[str]:
    return [cls.__name__ for cls in classes]


def example(cls: type[RLCallback]) -> RLCallback:
    return cls(**cls.example_arguments)


@functools.cache
def untouched_agent() -> RLModule:
    return tiny_agent(tiny_data(max_frames=200))


def compatible(one: type[RLCallback], two: type[RLCallback]) -> bool:
    pair = [example(cls) for cls in (one, two)]
    if not all(isinstance(callback, Intervention) for callback in pair):
        return True
    return all(a.conflict_with(untouched_agent(), b) is None for a, b in (pair, pair[::-1]))


def examples() -> list[RLCallback]:
    """One of each, as many as go together."""
    chosen: list[type[RLCallback]] = []
    for cls in EXPORTED:
        if all(compatible(cls, other) for other in chosen):
            chosen.append(cls)
    return [example(cls) for cls in chosen]
