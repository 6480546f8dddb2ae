"""Ctrl-C, SIGTERM, a closed terminal and SLURM's requeue signal: noted at once, obeyed where a run's state is whole."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.exceptions import _TunerExitException

from plasticity_rl.agents.base import RLModule
from plasticity_rl.errors import spelled

HANGUP = getattr(signal, "SIGHUP", None)
"""Sent when the terminal is closed; Windows has none."""

TIME_IS_UP = 1000
"""In place of a signal."""


class StopRun(SystemExit):
    """Ends a run that a signal asked to stop; ``code`` is 128 + the signal, as shells have it (130 and 143)."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)


class TimeIsUp(_TunerExitException):
    """Ends a start whose time is up, as if it had been done: ``Trainer.fit`` returns, the exit code is 0.

    It is the exception by which Lightning leaves a loop early without an error.
    """


def stopped(why: str, agent: RLModule) -> str:
    """Return the line with which a run says that it stopped."""
    return f"Stopped {why} {spelled(agent.where_it_stands())}"


class StopSignals:
    """Notes the signals that ask a run to stop, and the time that it has.

    A signal arrives anywhere, also in the middle of an update. So the handler only notes it, and the run asks
    :meth:`agreed` between two steps. A second Ctrl-C raises :class:`StopRun` at once.

    When its terminal is closed (SIGHUP) a run stops in the same way, and what it would print there goes nowhere: a
    write to a terminal that is gone fails. A run under ``nohup`` goes on.

    Where Lightning's SLURM plugin requeues jobs, its handler (which saves ``hpc_ckpt_<n>.ckpt`` and calls
    ``scontrol requeue``) is put off to such a moment too; Lightning would run it inside the signal.
    """

    def __init__(self) -> None:
        self.deadline = math.inf
        """When the time of this start is up, on ``time.monotonic``'s clock."""
        self._received = 0
        self._previous: dict[int, Any] = {}
        self._requeue: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._terminals: list[int] = []

    def install(self, trainer: pl.Trainer) -> None:
        """Take over from the handlers that Lightning has set; only the main thread may."""
        if threading.current_thread() is not threading.main_thread() or self._previous:
            return
        self._received = signal.SIGTERM if trainer.received_sigterm else 0  # Lightning noted it before this
        trainer._signal_connector.received_sigterm = False  # it would answer in the middle of an epoch's end
        environment = trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            requeue = environment.requeue_signal or signal.SIGUSR1
            handler = signal.getsignal(requeue)
            if callable(handler):
                self._requeue[int(requeue)] = handler
        stopping = [signal.SIGINT, signal.SIGTERM]
        if HANGUP is not None and signal.getsignal(HANGUP) != signal.SIG_IGN:
            stopping.append(HANGUP)
            self._terminals = [number for number in (1, 2) if os.isatty(number)]
        for signum in (*stopping, *self._requeue):
            self._previous[int(signum)] = signal.signal(signum, self._note)

    def restore(self) -> None:
        """Give the signals back."""
        for signum, handler in self._previous.items():
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)
        self._previous, self._requeue = {}, {}

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if signum == HANGUP:
            self._leave_terminal()
        if signum == self._received == signal.SIGINT:
            raise StopRun(signum)
        if not self._received:
            again = " (again: stop at once, without a checkpoint)" if signum == signal.SIGINT else ""
            # Not print(): the signal may have come in the middle of another one.
            os.write(2, f"\n{signal.Signals(signum).name}: saving after this step, then stopping{again}\n".encode())
        self._received = max(self._received, signum)

    def _leave_terminal(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for number in self._terminals:
            os.dup2(nowhere, number)
        os.close(nowhere)

    def agreed(self, trainer: pl.Trainer) -> int:
        """Return the signal that some rank has received, the same on all ranks, ``TIME_IS_UP`` or 0."""
        own = self._received or (TIME_IS_UP if time.monotonic() >= self.deadline else 0)
        if trainer.world_size == 1:
            return own
        number = torch.tensor(float(own), device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(number, reduce_op="max"))

    def requeue(self, signum: int) -> None:
        """Do what Lightning does for a signal that requeues the job; nothing for the others."""
        if signum in self._requeue:
            self._requeue[signum](signum, None)
