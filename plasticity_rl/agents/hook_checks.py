"""What an agent refuses about the callbacks it is given, before they build their part of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import lightning.pytorch as pl
from lightning.pytorch.utilities.model_helpers import is_overridden

from plasticity_rl.agents.hooks import Agent, RLCallback
from plasticity_rl.errors import UserError


def refuse_unfit(agent: Agent, callbacks: Sequence[RLCallback]) -> None:
    """Raise UserError when one of ``callbacks``, resolved, cannot run on ``agent``, or not beside another."""
    refuse_incomplete(callbacks)
    refuse_without_pixels(callbacks, agent.observation_key)
    refuse_conflicts(agent, callbacks)
    refuse_shared_tags(callbacks)


def refuse_incomplete(callbacks: Iterable[RLCallback]) -> None:
    """Raise UserError naming the first callback whose class does not define what it has to, with an example."""
    for callback in callbacks:
        for method, example in callback.lacks().items():
            raise UserError(f"{type(callback).__name__} does not define {method!r}: {example}")


def refuse_conflicts(agent: Agent, callbacks: Iterable[RLCallback]) -> None:
    """Raise UserError naming the first two that intervene and cannot do so together on ``agent``, and why."""
    for one, two in itertools.permutations([one for one in callbacks if one.intervenes], 2):
        reason = one.conflict_with(agent, two)
        if reason is not None:
            raise UserError(f"{type(one).__name__} cannot run beside {type(two).__name__}: {reason}")


def refuse_shared_tags(callbacks: Iterable[RLCallback]) -> None:
    """Raise UserError naming the first two that would write one tag, each over what the other wrote, and what differs.

    Args:
        callbacks: All of a run, resolved: see :meth:`RLCallback.resolve`.
    """
    for one, two in itertools.combinations(callbacks, 2):
        shared = sorted(one.tags() & two.tags())
        if shared:
            alike = type(one) is type(two)
            kinds = f"two {type(one).__name__}" if alike else f"{type(one).__name__} and {type(two).__name__}"
            theirs = two.arguments()
            other = [f"{k}={v} and {theirs[k]}" for k, v in one.arguments().items() if k in theirs and v != theirs[k]]
            raise UserError(
                f"{kinds} (with {', '.join(other) or 'equal arguments'}) would both write {shared[0]!r}, one over the "
                "other; remove one, or name other modules in it"
            )


def refuse_without_pixels(callbacks: Iterable[RLCallback], observation_key: str) -> None:
    """Raise UserError naming the first callback that needs images, unless that is what the agent observes."""
    for callback in callbacks:
        if callback.needs_pixels and observation_key != "pixels":
            raise UserError(
                f"{type(callback).__name__} works on images, but this run observes the {observation_key}; "
                "leave it out, or use --data.observation pixels"
            )


def refuse_doubles(callbacks: Iterable[pl.Callback]) -> None:
    """Raise UserError when two callbacks that keep a state are equal in class and arguments.

    To be called before the Trainer is built, which would raise a longer error of its own.
    """
    seen: set[str] = set()
    for callback in callbacks:
        if isinstance(callback, RLCallback) or is_overridden("state_dict", callback):
            if callback.state_key in seen:
                raise UserError(f"{type(callback).__name__} is given twice with the same arguments; remove one of them")
            seen.add(callback.state_key)
