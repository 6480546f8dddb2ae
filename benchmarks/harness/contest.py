"""Processes that take turns: each is measured while the others stand still, so that noise hits all of them alike.

A contestant is a process of its own, started as its user would start it (its own environment variables, threads, loader
workers). It sets itself up, says that it is ready, and then answers requests, one JSON line each. Between its turns its
whole process group is stopped (SIGSTOP): it takes no core from the others, and workers cannot run ahead for free.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any, NamedTuple

from plasticity_rl.machine.cores import CHOOSE

ROOT = Path(__file__).resolve().parents[2]
SOCKET = "BENCHMARK_SOCKET"
"""Environment variable with the path of the socket on which the parent waits for a contestant."""
SETTINGS = ("OMP_", "MKL_", "KMP_", "GOMP_", "MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "MUJOCO_", "RL_LOGGING", CHOOSE)
"""Beginnings of the environment variables that change speed. Contestants start without any that are set here.

``CHOOSE`` too: one thread that was not the user's choice becomes several where updates are large, so a contestant that
got the first variable without the second would compute with fewer threads than the one whose settings it was given.
"""
SECONDS_TO_START = 3600.0


def settings_of(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of ``environment`` that change speed."""
    return {name: value for name, value in sorted(environment.items()) if name.startswith(SETTINGS)}


class ContestantFailed(Exception):
    """A contestant ended instead of answering; the message has the end of what it printed."""


class Contestant:
    """A process that is measured.

    Args:
        name: How the table calls it.
        command: The command, run in the root of the repository.
        settings: Environment variables on top of the user's, without those in ``SETTINGS``.
        root: Root of the repository: another worktree runs its own code, and its own side of the benchmark.

    Attributes:
        ready: What it said when it was ready: its settings, threads, and so on.

    Raises:
        ContestantFailed: When it ends before it is ready.
    """

    def __init__(
        self, name: str, command: Sequence[str], settings: Mapping[str, str] | None = None, root: Path = ROOT
    ) -> None:
        self.name = name
        self._folder = tempfile.TemporaryDirectory(prefix="bench")
        self._log = Path(self._folder.name) / "log.txt"
        address = str(Path(self._folder.name) / "socket")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(SETTINGS)}
        paths = os.pathsep.join(filter(None, [str(root), kept.get("PYTHONPATH", "")]))
        own = {"PYTHONPATH": paths, "TMPDIR": self._folder.name, SOCKET: address}
        environment = {**kept, **own, **(settings or {})}
        with socket.socket(socket.AF_UNIX) as server, self._log.open("w") as log:
            server.bind(address)
            server.listen(1)
            server.settimeout(0.5)
            self._process = Popen(
                command,
                cwd=root,
                env=environment,
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=os.setpgrp,  # no new session: the kernel ends stopped groups whose parent was killed
            )
            try:
                self._lines = self._accept(server).makefile("rw")
                self.ready = self._answer()
            except BaseException:
                self.close()
                raise
        self._signal(signal.SIGSTOP)

    def _accept(self, server: socket.socket) -> socket.socket:
        until = time.monotonic() + SECONDS_TO_START
        while time.monotonic() < until and self._process.poll() is None:
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            connection.setblocking(True)
            return connection
        raise self._failure()

    def _answer(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            raise self._failure()
        return json.loads(line)

    def _failure(self) -> ContestantFailed:
        self._signal(signal.SIGCONT)
        code = self._process.wait()
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        end = "\n    ".join(lines[-1:] if lines and lines[-1].startswith("error:") else lines[-15:])
        return ContestantFailed(f"{self.name} ended with exit code {code}:\n    {end}")

    def ask(self, **request: Any) -> dict[str, Any]:
        """Let it run, send it a request, wait for the answer, and stop it again."""
        self._signal(signal.SIGCONT)
        self._lines.write(json.dumps(request) + "\n")
        self._lines.flush()
        answer = self._answer()
        self._signal(signal.SIGSTOP)
        return answer

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def close(self) -> None:
        """End it with everything it started."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._folder.cleanup()

    def __enter__(self) -> Contestant:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Contestants:
    """A group that is closed together. One that does not start is reported, and the others go on without it."""

    def __init__(self) -> None:
        self._started: list[Contestant] = []
        self.failed: dict[str, str] = {}

    def start(
        self, name: str, command: Sequence[str], settings: Mapping[str, str] | None = None, root: Path = ROOT
    ) -> Contestant | None:
        """Start one and return it, or None when it failed."""
        print(f"starting {name} ...", file=sys.stderr, flush=True)
        try:
            contestant = Contestant(name, command, settings, root)
        except ContestantFailed as error:
            self.failed[name] = str(error)
            print(f"left out: {error}", file=sys.stderr, flush=True)
            return None
        self._started.append(contestant)
        return contestant

    def __enter__(self) -> Contestants:
        return self

    def __exit__(self, *error: object) -> None:
        for contestant in self._started:
            contestant.close()


class Lane(NamedTuple):
    """What is measured once in every round: a request to a contestant."""

    name: str
    contestant: Contestant
    request: dict[str, Any]


def interleave(lanes: Sequence[Lane], repeats: int, *, stoppable: bool = False) -> dict[str, list[dict[str, Any]]]:
    """Ask every lane in turn, ``repeats`` times round, and return the answers by name of the lane.

    Args:
        lanes: Who is asked what.
        repeats: Rounds.
        stoppable: Return what whole rounds have measured when this process is told to end (SIGTERM) in a later one.
    """
    rounds: list[dict[str, dict[str, Any]]] = []
    try:
        while len(rounds) < repeats:
            rounds.append({lane.name: lane.contestant.ask(**lane.request) for lane in lanes})
            print(f"round {len(rounds)} of {repeats} done", file=sys.stderr, flush=True)
    except SystemExit:
        if not rounds or not stoppable:
            raise
        print(f"told to end: {len(rounds)} of {repeats} rounds count", file=sys.stderr, flush=True)
    return {lane.name: [one[lane.name] for one in rounds] for lane in lanes}
