"""Start the runs of a study, a few at a time, each in a process of its own: on this machine, unless told otherwise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

from plasticity_rl.distributed.variables import without_ranks
from plasticity_rl.machine.cores import CHOOSE
from plasticity_rl.machine.health import available_cores
from plasticity_rl.study.progress import reason
from plasticity_rl.study.spec import state_of
from plasticity_rl.study.study_run import StudyRun, needed_by

SECONDS_TO_STOP = 600
"""How long a run that was asked to stop may take to save: an update and an evaluation episode, on a slow machine."""
POLL_SECONDS = 0.2
WITH_ITS_PARENT = """
import ctypes, os, signal, sys
try:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG, kept by exec
except (AttributeError, OSError):
    pass  # no Linux
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
"""Becomes a process of Python that is asked to save and end when its parent is gone, also by SIGKILL.

Else a run would go on in a folder that the next start of the study wants. ``preexec_fn`` is not safe among threads.
"""


class Job(Protocol):
    """A run that goes on somewhere; ``subprocess.Popen`` is one."""

    def poll(self) -> int | None:
        """Return its exit code, or None while it goes on."""

    def terminate(self) -> None:
        """Ask it to save its state and end."""

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit code, or raise ``subprocess.TimeoutExpired``."""

    def kill(self) -> None:
        """End it at once."""


Launch = Callable[[Sequence[str], IO[bytes]], Job]
"""Starts ``plasticity-rl fit`` with these arguments; what it prints goes to the open file."""


def launch_here(arguments: Sequence[str], log: IO[bytes], *, num_workers: int) -> Job:
    """Start a process on this machine; workers share the cores, unless the user said how many threads each has."""
    environment = {"OMP_NUM_THREADS": str(max(1, available_cores() // num_workers)), **os.environ}
    if num_workers > 1:
        environment.pop(CHOOSE, None)  # a run beside others does not take their cores
    return start_fit(arguments, log, without_ranks(environment))


def start_fit(
    arguments: Sequence[str], log: IO[bytes], environment: Mapping[str, str], folder: str | None = None
) -> subprocess.Popen[bytes]:
    """Start ``plasticity-rl fit`` in a session of its own: Ctrl-C reaches this process, which asks runs to stop, once.

    It ends with this process, or rather with the thread that starts it, which has to wait for it.

    Args:
        arguments: What follows ``fit``.
        log: Takes all that it prints.
        environment: Its variables, all of them.
        folder: Where it starts; None for the current one.
    """
    return subprocess.Popen(
        [sys.executable, "-c", WITH_ITS_PARENT, str(os.getpid()), "-m", "plasticity_rl", "fit", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        cwd=folder,
        env=environment,
    )


@dataclass
class Worker:
    """A run that is going on."""

    run: StudyRun
    job: Job
    log: IO[bytes]
    started: float


@dataclass
class Runner:
    """Runs what is not finished, resumes what was stopped, and goes on when a run fails.

    A run is started once per call, and after the runs whose folders it reads. Its output goes to ``log.txt`` in its
    folder.

    Attributes:
        max_frames: Env frames of a run.
        num_workers: Runs at a time.
        launch: Starts a run; by default here.
        say: Told one line for everything that happens.
        show: Told again and again how many runs have ended, and the logs of those that go on by name.
        failed: Runs that ended with an error, with their exit code.
        done: Runs that came to their end in this call.
    """

    max_frames: int
    num_workers: int
    launch: Launch | None = None
    say: Callable[[str], None] = print
    show: Callable[[int, Mapping[str, Path]], None] = lambda over, logs: None
    failed: list[tuple[StudyRun, int]] = field(default_factory=list)
    done: list[StudyRun] = field(default_factory=list)
    _workers: list[Worker] = field(default_factory=list)

    def run_all(self, runs: Sequence[StudyRun]) -> None:
        """Run all of ``runs`` that are not finished; Ctrl-C and SIGTERM let those that go on save their state."""
        waiting = [run for run in runs if state_of(run, self.max_frames) != "finished"]
        total, previous = len(waiting), signal.signal(signal.SIGTERM, _interrupt)
        try:
            while waiting or self._workers:
                while len(self._workers) < self.num_workers and (run := self._next(waiting)):
                    waiting.remove(run)
                    self._workers.append(self._start(run))
                    self.say(self._line("started", run, total))
                time.sleep(POLL_SECONDS)
                self.show(self._over, {worker.run.name: log_of(worker.run) for worker in self._workers})
                for worker in [one for one in self._workers if one.job.poll() is not None]:
                    self._finish(worker, total)
        finally:
            self._stop_all()
            signal.signal(signal.SIGTERM, previous)

    def _next(self, waiting: Sequence[StudyRun]) -> StudyRun | None:
        """Return the first run that need not wait for another; one whose other failed is started and fails."""
        unfinished = [*waiting, *(worker.run for worker in self._workers)]
        free = next((run for run in waiting if not needed_by(run, unfinished)), None)
        return waiting[0] if free is None and waiting and not self._workers else free

    def _start(self, run: StudyRun) -> Worker:
        run.folder.mkdir(parents=True, exist_ok=True)
        resume = ["--ckpt_path", "last"] if state_of(run, self.max_frames) == "stopped" else []
        log = log_of(run).open("ab")
        arguments = [*run.arguments, *resume]
        if self.launch is None:
            job = launch_here(arguments, log, num_workers=self.num_workers)
        else:
            job = self.launch(arguments, log)
        return Worker(run, job, log, time.monotonic())

    def _finish(self, worker: Worker, total: int) -> None:
        self._workers.remove(worker)
        worker.log.close()
        code = worker.job.wait()
        if code == 0 and state_of(worker.run, self.max_frames) == "finished":
            self.done.append(worker.run)
            minutes = (time.monotonic() - worker.started) / 60
            self.say(self._line("finished", worker.run, total, f" in {minutes:.1f} minutes"))
        else:
            self.failed.append((worker.run, code))
            self.say(self._line(f"failed with exit code {code}", worker.run, total, f": {reason(log_of(worker.run))}"))

    def _line(self, what: str, run: StudyRun, total: int, more: str = "") -> str:
        return f"[{self._over}/{total}] {run.name} {what}{more}"

    @property
    def _over(self) -> int:
        return len(self.done) + len(self.failed)

    def _stop_all(self) -> None:
        for worker in self._workers:
            worker.job.terminate()
        for worker in self._workers:
            try:
                worker.job.wait(SECONDS_TO_STOP)
            except subprocess.TimeoutExpired:
                worker.job.kill()
            worker.log.close()
            self.say(f"stopped {worker.run.name}")
        self._workers.clear()


def log_of(run: StudyRun) -> Path:
    """Return the file with all that a run prints."""
    return Path(run.folder) / "log.txt"


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt
