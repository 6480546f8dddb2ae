"""How long a command line keeps its user waiting: for help, for the refusal of a mistake, for its first line.

python -m benchmarks.measurements.start_up --repeats 5
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.harness.report import machine

COMMANDS = {
    "fit --help": ["--help"],
    "a wrong option": ["--config", "quickstart", "--data.bach_size", "3"],
    "a wrong task": ["--data.task", "atari:breakuot"],
    "a wrong callback": ["--trainer.callbacks+=callbacks.Resett"],
    "a wrong module": [
        "--trainer.callbacks+=callbacks.Reset",
        "--trainer.callbacks.modules=[critic.Q9]",
        "--trainer.callbacks.at_frames=[10]",
    ],
}
"""What is given to ``fit``, by what it is about: it ends by itself."""
FIRST_LINE = ["--config", "quickstart", "--trainer.default_root_dir", "run"]
"""What is given to a run, which is stopped as soon as it has said something."""


def seconds_to_end(args: list[str], folder: str) -> float:
    """Return how long ``fit`` takes to print help or to refuse something."""
    began = time.perf_counter()
    done = subprocess.run(_fit(args), cwd=folder, capture_output=True, check=False)
    seconds = time.perf_counter() - began
    assert done.returncode in (0, 2), done.stderr.decode()
    return seconds


def seconds_to_first_line(args: list[str], folder: str) -> float:
    """Return how long ``fit`` takes to say its first line, and stop it."""
    began = time.perf_counter()
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    process = subprocess.Popen(_fit(args), cwd=folder, stderr=pipe, stdout=nothing, start_new_session=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    seconds = time.perf_counter() - began
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert b"loading" in line, line
    return seconds


def _fit(args: list[str]) -> list[str]:
    return [sys.executable, "-m", "plasticity_rl", "fit", *args]


def measure(repeats: int) -> dict[str, list[float]]:
    """Return the seconds of every repeat, the first of which is not counted (it fills the system's caches)."""
    found: dict[str, list[float]] = {name: [] for name in (*COMMANDS, "first line")}
    for repeat in range(repeats + 1):
        for name in found:
            with tempfile.TemporaryDirectory() as folder:
                if name in COMMANDS:
                    seconds = seconds_to_end(COMMANDS[name], folder)
                else:
                    seconds = seconds_to_first_line(FIRST_LINE, folder)
            if repeat:
                found[name].append(seconds)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    for key, value in machine().items():
        print(f"{key:12} {value}")
    for name, seconds in measure(options.repeats).items():
        print(f"{name:20} {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")


if __name__ == "__main__":
    main()
