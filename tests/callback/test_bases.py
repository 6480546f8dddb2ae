"""The bases of callbacks: few, and not on top of each other."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import plasticity_rl.callback
from plasticity_rl.callback import RLCallback


def bases(base: type = RLCallback) -> Iterator[type]:
    yield base
    for derived in base.__subclasses__():
        if derived.__module__.startswith("plasticity_rl."):
            yield from bases(derived)


def depth(base: type) -> int:
    return 1 + max((depth(one) for one in base.__bases__ if issubclass(one, RLCallback)), default=0)


def test_no_base_of_callbacks_is_more_than_four_deep():
    for module in pkgutil.walk_packages(plasticity_rl.callback.__path__, "plasticity_rl.callback."):
        importlib.import_module(module.name)
    found = {base.__name__: depth(base) for base in bases()}
    assert (found["RLCallback"], found["ScheduledIntervention"]) == (1, 3)
    assert {name: own for name, own in found.items() if own > 4} == {}
