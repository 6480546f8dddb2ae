"""What was changed about the callbacks of a run since its checkpoint, and where those that stayed find their state."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl

from plasticity_rl.agents.hooks import RLCallback, class_path, constructor_parameters, describe, plain
from plasticity_rl.agents.options import RECORD, kept_arguments, other_callbacks
from plasticity_rl.agents.resume_rules import Change, rule_of, show
from plasticity_rl.agents.spelling import same
from plasticity_rl.former_names import todays_name

Described = Mapping[str, Any]
"""``class``, its path, and ``arguments`` of a callback, as plain data."""


class Classes:
    """What is known of the classes in descriptions.

    Args:
        callbacks: Of the run that goes on.
        intervening: Paths of the classes that intervene in a checkpoint, or None where it does not say.
    """

    def __init__(self, callbacks: Iterable[pl.Callback], intervening: Sequence[str] | None) -> None:
        self._classes = {class_path(type(one)): type(one) for one in callbacks}
        self._only_from_the_start = {
            class_path(type(one)) for one in callbacks if isinstance(one, RLCallback) and one.only_from_the_start
        }
        self._intervening = intervening

    def arguments(self, described: Described) -> dict[str, Any]:
        """Return the arguments of a description, and the defaults of those that it does not know."""
        parameters = constructor_parameters(self._classes[_path(described)])
        found = {name: plain(p.default) for name, p in parameters.items() if p.default is not p.empty}
        return {**found, **described["arguments"]}

    def equal(self, old: Described, new: Described, folder: str) -> bool:
        """Whether two descriptions mean one callback."""
        if _path(old) != _path(new):
            return False
        before = self.arguments(old)
        return all(name not in before or same(before[name], now, folder) for name, now in new["arguments"].items())

    def kind(self, described: Described, what: str) -> str:
        """Return the word of the table for a callback that was ``added``, ``removed`` or ``changed``."""
        path = _path(described)
        module, _, name = path.rpartition(".")
        cls: Any = self._classes.get(path) or getattr(sys.modules.get(module), name, None)
        if cls is not None and issubclass(cls, RLCallback):
            intervenes = cls.intervenes
        else:  # a class that was removed and is not known here
            intervenes = self._intervening is None or path in self._intervening
        if not intervenes:
            return f"probe {what}"
        first = what == "added" and path in self._only_from_the_start
        return f"intervention {'of the start ' * first}{what}"


def _path(described: Described) -> str:
    return str(todays_name(described["class"]))


def callback_changes(checkpoint: Mapping[str, Any], callbacks: Sequence[pl.Callback], folder: str) -> list[Change]:
    """Return what was changed, added and removed.

    Args:
        checkpoint: One of an old version does not list all callbacks.
        callbacks: Of the run that goes on.
        folder: Where relative paths in it start.
    """
    saved, record = checkpoint["rl"], checkpoint.get(RECORD, {})
    classes = Classes(callbacks, record.get("intervening"))
    changes = []
    if "callbacks" in saved:
        changes += _compare(saved["callbacks"], describe(callbacks), classes, folder, described=True)
    if "other_callbacks" in record:
        changes += _compare(record["other_callbacks"], other_callbacks(callbacks), classes, folder, described=False)
    return changes


def _compare(
    old: Sequence[Described], new: Sequence[Described], classes: Classes, folder: str, *, described: bool
) -> list[Change]:
    def rule(one: Described, what: str) -> Any:
        return rule_of(classes.kind(one, what) if described else f"other callback {what}")

    gone, come, changes = list(old), [], []
    for one in new:
        equal = [other for other in gone if classes.equal(other, one, folder)]
        gone = [other for other in gone if other is not equal[0]] if equal else gone
        come += [] if equal else [one]
    added = []
    for one in come:
        before = next((other for other in gone if _path(other) == _path(one)), None)
        if before is None:
            added.append(one)
            continue
        gone = [other for other in gone if other is not before]
        values = classes.arguments(before)
        for name, value in one["arguments"].items():
            if name in values and not same(values[name], value, folder):
                option = f"{_path(one).rpartition('.')[2]}.{name}"
                changes.append(Change(option, values[name], value, rule(one, "changed")))
    changes += [Change(f"{_call(one)} added", None, None, rule(one, "added")) for one in added]
    return changes + [Change(f"{_call(one)} removed", None, None, rule(one, "removed")) for one in gone]


def _call(described: Described) -> str:
    arguments = ", ".join(f"{name}={show(value)}" for name, value in described["arguments"].items())
    return f"{_path(described).rpartition('.')[2]}({arguments})"


def move_states(checkpoint: Mapping[str, Any], callbacks: Sequence[pl.Callback], folder: str) -> None:
    """Let every callback find its state and its random numbers, also where an argument is spelled otherwise.

    Both go by a key of class and arguments. Where a callback of Lightning keeps an argument in its state (EarlyStopping
    its patience), that of this run replaces it.

    Args:
        checkpoint: Edited in place, before anything is restored from it.
        callbacks: Of the run that goes on.
        folder: Where relative paths in the checkpoint start.
    """
    saved, states = checkpoint["rl"], checkpoint.get("callbacks", {})
    classes, left = Classes(callbacks, None), list(saved.get("callbacks", []))
    for callback in callbacks:
        if isinstance(callback, RLCallback) and callback.is_described:
            (new,) = describe([callback])
            old = next((one for one in left if classes.equal(one, new, folder)), None)
            if old is not None:
                left = [one for one in left if one is not old]
                _move(callback.key_of(old["arguments"]), callback.state_key, states, saved["rng"])
        elif type(callback).__module__.startswith("lightning."):
            state = states.get(callback.state_key, {})
            state.update({name: value for name, value in kept_arguments(callback).items() if name in state})


def _move(old: str, new: str, states: dict[str, Any], generators: dict[str, Any]) -> None:
    if old == new:
        return
    if old in states:
        states[new] = states.pop(old)
    for name in [name for name in generators if old in name]:
        generators[name.replace(old, new)] = generators.pop(name)
