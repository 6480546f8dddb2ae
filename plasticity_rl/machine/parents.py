"""Processes that only the one that started them decides about. Light."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator

PR_SET_PDEATHSIG = 1
LEFT_TO_THE_PARENT = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
"""Signals that terminals, launchers and SLURM send to all processes of a run at once."""


def belong_to(parent: int) -> None:
    """Make this process one that only its parent decides about: other signals do nothing, and it ends with the parent.

    Linux kills it then, at once and whatever it does (to be exact, when the thread that started it ends); elsewhere it
    has to notice that its pipe is closed. To be called first of all, before anything slow is imported.

    Args:
        parent: Number of the process that started this one.
    """
    for name in LEFT_TO_THE_PARENT:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _nothing)  # not SIG_IGN, which what it starts would inherit
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before that
        os._exit(1)


@contextlib.contextmanager
def children_deaf() -> Iterator[None]:
    """Let no process that is started inside hear what is sent to all of a run, for a program that is not ours (ffmpeg).

    It inherits which signals its thread holds back. Those that arrive meanwhile go to other threads of this process,
    or wait until the end.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    deaf_to = {getattr(signal, name) for name in LEFT_TO_THE_PARENT}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, deaf_to)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _nothing(*_: object) -> None:
    pass
