"""The contestant's side: connect, say ready, answer requests.

``python -m benchmarks.harness.child MODULE:FUNCTION JSON``, with the module as it is called below ``benchmarks``.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.harness.contest import SOCKET, settings_of


class Link:
    """The connection to the parent."""

    def __init__(self) -> None:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(os.environ[SOCKET])
        self._lines = connection.makefile("rw")

    def say(self, **answer: Any) -> None:
        """Send one answer."""
        self._lines.write(json.dumps(answer) + "\n")
        self._lines.flush()

    def say_ready(self, **about: Any) -> None:
        """Say that the first request may come, and under which settings this process runs."""
        self.say(settings=settings_of(os.environ), torch_threads=torch.get_num_threads(), **about)

    def hear(self) -> dict[str, Any]:
        """Wait for a request. The process ends here when there are no more."""
        line = self._lines.readline()
        if not line:
            os._exit(0)  # nothing of a benchmark is worth saving
        return json.loads(line)


class Stopwatch:
    """Wall-clock and CPU seconds of this process (all threads, no loader workers); waits for the GPU at both ends."""

    def __init__(self) -> None:
        synchronize()
        self._start, self._cpu_start = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        """Return the seconds so far."""
        synchronize()
        return {"seconds": time.perf_counter() - self._start, "cpu_seconds": time.process_time() - self._cpu_start}


def synchronize() -> None:
    """Wait for what the GPU still computes, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def serve(work: Callable[..., dict[str, Any] | None], **about: Any) -> None:
    """Answer every request with the seconds that ``work(**request)`` took, and what it returned. Never returns.

    Args:
        work: Does ``n`` units of work; other keys of the request are its own.
        about: Facts for the ready message.
    """
    link = Link()
    link.say_ready(**about)
    while True:
        request = link.hear()
        watch = Stopwatch()
        found = work(**request)
        link.say(**{"units": request["n"], **watch.read(), **(found or {})})


class Gate:
    """For loops that cannot be called: ``tick()`` after each step, or several, blocks between turns of this process."""

    def __init__(self, link: Link | None = None) -> None:
        self._link = Link() if link is None else link
        self._missing, self._asked = 0, 0
        self._watch: Stopwatch | None = None

    @property
    def begins(self) -> bool:
        """Whether a turn has just begun."""
        return self._missing == self._asked

    def open(self, **about: Any) -> None:
        """Say ready, at the first tick that counts, and wait for the first request."""
        self._link.say_ready(**about)
        self._next_turn()

    def tick(self, steps: int = 1, **found: Any) -> None:
        """Count ``steps``; with the last one of a turn answer with the seconds, and wait for the next turn.

        Where they do not divide a turn it is as much longer as they need.
        """
        if self._watch is None:
            return
        self._missing -= steps
        if self._missing <= 0:
            self._link.say(**{"units": self._asked - self._missing, **self._watch.read(), **found})
            self._next_turn()

    def _next_turn(self) -> None:
        self._asked = self._missing = self._link.hear()["n"]
        self._watch = Stopwatch()


def command(function: str, **arguments: Any) -> list[str]:
    """Return the command that runs ``MODULE:FUNCTION`` of this package as a contestant."""
    return [sys.executable, "-m", "benchmarks.harness.child", function, json.dumps(arguments)]


if __name__ == "__main__":
    module, _, name = sys.argv[1].partition(":")
    getattr(importlib.import_module(f"benchmarks.{module}"), name)(**json.loads(sys.argv[2]))
