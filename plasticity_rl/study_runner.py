"""Start the runs of a study on this machine, a few at a time, each in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from plasticity_rl.study import StudyRun, state_of

SECONDS_TO_STOP = 600
"""How long a run that was asked to stop may take to save: an update and an evaluation episode, on a slow machine."""
POLL_SECONDS = 0.2


@dataclass
class Worker:
    """A run that is going on."""

    run: StudyRun
    process: subprocess.Popen
    log: IO[bytes]
    started: float


@dataclass
class LocalRunner:
    """Runs what is not finished, resumes what was stopped, and goes on when a run fails.

    A run is started once per call. Its output goes to ``log.txt`` in its folder.

    Attributes:
        max_frames: Env frames of a run.
        num_workers: Runs at a time.
        say: Told one line for everything that happens.
        failed: Runs that ended with an error, with their exit code.
        done: Runs that came to their end in this call.
    """

    max_frames: int
    num_workers: int
    say: Callable[[str], None] = print
    failed: list[tuple[StudyRun, int]] = field(default_factory=list)
    done: list[StudyRun] = field(default_factory=list)
    _workers: list[Worker] = field(default_factory=list)

    def run_all(self, runs: Sequence[StudyRun]) -> None:
        """Run all of ``runs`` that are not finished; Ctrl-C and SIGTERM let those that go on save their state."""
        waiting = [run for run in runs if state_of(run, self.max_frames) != "finished"]
        total, previous = len(waiting), signal.signal(signal.SIGTERM, _interrupt)
        try:
            while waiting or self._workers:
                while waiting and len(self._workers) < self.num_workers:
                    self._workers.append(self._start(waiting.pop(0)))
                    self.say(self._line("started", self._workers[-1].run, total))
                time.sleep(POLL_SECONDS)
                for worker in [one for one in self._workers if one.process.poll() is not None]:
                    self._finish(worker, total)
        finally:
            self._stop_all()
            signal.signal(signal.SIGTERM, previous)

    def _start(self, run: StudyRun) -> Worker:
        run.folder.mkdir(parents=True, exist_ok=True)
        resume = ["--ckpt_path", "last"] if state_of(run, self.max_frames) == "stopped" else []
        log = (run.folder / "log.txt").open("ab")
        # A session of its own: Ctrl-C reaches this process alone, which then asks the runs to stop, once.
        process = subprocess.Popen(
            [sys.executable, "-m", "plasticity_rl", "fit", *run.arguments, *resume],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=self._environment(),
        )
        return Worker(run, process, log, time.monotonic())

    def _environment(self) -> dict[str, str]:
        """Share the cores among the workers, unless the user did."""
        threads = max(1, (os.cpu_count() or 1) // self.num_workers)
        return {"OMP_NUM_THREADS": str(threads), **os.environ}

    def _finish(self, worker: Worker, total: int) -> None:
        self._workers.remove(worker)
        worker.log.close()
        code = worker.process.returncode
        if code == 0 and state_of(worker.run, self.max_frames) == "finished":
            self.done.append(worker.run)
            minutes = (time.monotonic() - worker.started) / 60
            self.say(self._line("finished", worker.run, total, f" in {minutes:.1f} minutes"))
        else:
            self.failed.append((worker.run, code))
            self.say(self._line(f"failed with exit code {code}", worker.run, total, f": {last_line(worker.run)}"))

    def _line(self, what: str, run: StudyRun, total: int, more: str = "") -> str:
        over = len(self.done) + len(self.failed)
        return f"[{over}/{total}] {run.name} {what}{more}"

    def _stop_all(self) -> None:
        for worker in self._workers:
            worker.process.send_signal(signal.SIGTERM)
        for worker in self._workers:
            try:
                worker.process.wait(SECONDS_TO_STOP)
            except subprocess.TimeoutExpired:
                worker.process.kill()
            worker.log.close()
            self.say(f"stopped {worker.run.name}")
        self._workers.clear()


def last_line(run: StudyRun) -> str:
    """Return the last line that a run printed, and where the others are."""
    path = Path(run.folder) / "log.txt"
    lines = path.read_text(errors="replace").strip().splitlines() if path.is_file() else []
    return f"{lines[-1].strip() if lines else 'it printed nothing'} ({path})"


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt
