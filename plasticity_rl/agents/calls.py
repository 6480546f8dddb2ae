"""Which callbacks a hook is dispatched to: found out once per run and hook, since an update has several hooks.

Left out is who has nothing of its own there, and passed over who is not due (``RLCallback.is_due``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from plasticity_rl.agents.hooks import LAST, RLCallback
from plasticity_rl.agents.jumps import SURGERY_HOOKS, TellsOfJumps, listens, watched


class Call(NamedTuple):
    """A callback with a hook of its own.

    Attributes:
        callback: Whose it is.
        asks: Whether it says itself when it is due.
        watched: Whether weights may jump in it, and others listen.
    """

    callback: RLCallback
    asks: bool
    watched: bool

    def make(self, agent: TellsOfJumps, hook: str, args: tuple[Any, ...]) -> None:
        """Call the hook if it is due."""
        callback = self.callback
        if self.asks and not callback.is_due(agent, hook):
            return
        if not self.watched:
            getattr(callback, hook)(agent, *args)
            return
        with watched(agent, callback):
            getattr(callback, hook)(agent, *args)


def calls_of(agent: TellsOfJumps, callbacks: Iterable[RLCallback], hook: str) -> list[Call]:
    """Return the calls of a hook in the order of ``callbacks``, but for those that act last among the interventions."""
    if hook == "on_update_start":
        callbacks = sorted(callbacks, key=lambda one: (one.order[0] == LAST, one.acts_last))
    return [
        Call(one, asks(one, hook), hook in SURGERY_HOOKS and agent.others_listen(one))
        for one in callbacks
        if has_own(one, hook) or (hook == "on_weights_jumped" and listens(one))
    ]


def has_own(callback: RLCallback, hook: str) -> bool:
    """Return whether a callback does anything in ``hook``, by its class or by what was set on itself."""
    own = getattr(callback, hook)
    return getattr(own, "__func__", own) is not getattr(RLCallback, hook)


def asks(callback: RLCallback, hook: str) -> bool:
    """Return whether ``is_due`` speaks for ``hook``: not where a class further down has made another hook of it."""
    defined = {name: next(cls for cls in type(callback).__mro__ if name in vars(cls)) for name in ("is_due", hook)}
    return hook not in vars(callback) and issubclass(defined["is_due"], defined[hook])
