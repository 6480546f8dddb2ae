"""All that is worth measuring on a machine with a GPU, within a few minutes, in the order of its worth.

Every stage is a ``python -m benchmarks`` of its own with a time limit: what hangs, or is not there, costs its limit and
no other stage. Without a GPU the same stages run on the CPU, with ``--size tiny`` as a rehearsal.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.contest import ROOT
from benchmarks.harness.options import Options
from benchmarks.harness.report import print_table

FRAMES = 2_000_000
"""Of the training whose length is extrapolated."""
SHARE_AT_HIGH = 5 / 9
"""Share of the env steps that Adaptive RR (0.5, then 2) does at 2, where its mean is 4/3."""
LOW, HIGH = "--model.replay_ratio=0.5", "--model.replay_ratio=2"
BFLOAT16 = "--trainer.precision=bf16-mixed"
GRAPH = "--model.cuda_graph=true"
SECONDS_TO_END = 10.0
"""How long a stage that is told to end may take for it."""


@dataclass(frozen=True)
class Stage:
    """One stage: arguments of ``python -m benchmarks``, those at full size, and its limit."""

    name: str
    limit_seconds: float
    full: tuple[str, ...] = ()
    tiny: tuple[str, ...] = ()
    with_reference: bool = False

    def arguments(self, options: Options, kept: Path) -> list[str]:
        """Return the command line."""
        shared = ["--json", str(kept), "--size", options.size, "--device", options.device, "--task", options.task]
        reference = ["--reference", options.reference] if options.reference and self.with_reference else []
        return [self.name, *shared, *reference, *(self.full if options.size == "full" else self.tiny)]


ON_DEVICE = "--data.storage=device --data.draw_on_device=true"
CHOOSES_KERNELS = "--trainer.benchmark=true"
"""As the published agent has it: cuDNN tries its kernels and keeps the fastest."""
RATIOS = tuple(
    f"--ours={own}"
    for own in (LOW, HIGH, f"{HIGH} {BFLOAT16}", f"{HIGH} {BFLOAT16} {GRAPH}", f"{HIGH} {BFLOAT16} {GRAPH} {ON_DEVICE}")
)
UPDATES = tuple(
    f"--ours={own}" for own in (GRAPH, f"{GRAPH} {BFLOAT16}", CHOOSES_KERNELS, f"{GRAPH} {BFLOAT16} {CHOOSES_KERNELS}")
)
STAGES = (
    Stage("parity", 60),
    Stage("graphs", 60, ("--repeats", "3"), ("--repeats", "1")),
    Stage(
        "learner",
        140,
        ("--repeats", "3", "--units", "200", "--without", "compiled", *UPDATES),
        ("--repeats", "1"),
        with_reference=True,
    ),
    Stage(
        "end_to_end",
        200,
        ("--repeats", "3", "--units", "600", "--without", "overlap", "float32", "bf16", *RATIOS),
        ("--repeats", "1", "--units", "20", "--without", "overlap", "float32", "bf16", *RATIOS[:2]),
    ),
    Stage("env_scaling", 120, ("--repeats", "3"), ("--repeats", "1")),
)


def run(options: Options) -> dict[str, Any]:
    """Measure and print; return what is kept."""
    began = time.monotonic()
    found: dict[str, Any] = {"about": _about()}
    print_table("gpu: the machine", ("what", "value"), list(found["about"].items()))
    with tempfile.TemporaryDirectory() as folder:
        for stage in STAGES:
            left = options.seconds - (time.monotonic() - began)
            kept = Path(folder) / f"{stage.name}.json"
            found[stage.name] = _run(stage.arguments(options, kept), min(stage.limit_seconds, left), kept)
    if hours := extrapolated(found["end_to_end"]):
        found["hours"] = hours
        title = f"gpu: hours for {FRAMES:,} env frames of one task with Adaptive RR, extrapolated"
        print_table(title, ("replay ratio 0.5, then 2", "hours"), list(hours.items()))
    return found


def extrapolated(end_to_end: dict[str, Any]) -> dict[str, float]:
    """Return the hours that a training would take at the rates of ``end_to_end``, by what runs at replay ratio 2."""
    rates = {row["name"]: row["median"] for row in end_to_end.get("rows", ())}
    if LOW not in rates:
        return {}
    low = (1 - SHARE_AT_HIGH) / rates[LOW]
    return {name: FRAMES * (low + SHARE_AT_HIGH / rate) / 3600 for name, rate in rates.items() if HIGH in name}


def _run(arguments: list[str], limit_seconds: float, kept: Path) -> dict[str, Any]:
    if limit_seconds <= 0:
        print(f"\n{arguments[0]}: left out, no time")
        return {"ended": "no time"}
    command = [sys.executable, "-m", "benchmarks", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        ended = f"exit code {process.wait(limit_seconds)}"
    except subprocess.TimeoutExpired:
        ended = f"not within {limit_seconds:.0f} s"
        process.terminate()  # it ends what it has started
        try:
            process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    print(f"{arguments[0]}: {ended}", flush=True)
    measured = json.loads(kept.read_text()).get(arguments[0], {}) if kept.exists() else {}
    return {**measured, "ended": ended}


def _about() -> dict[str, Any]:
    there = torch.cuda.is_available()
    return {
        "GPU": torch.cuda.get_device_name() if there else "none",
        "CUDA of torch": torch.version.cuda,
        "cuDNN": torch.backends.cudnn.version() if there else None,
        "MUJOCO_GL": os.environ.get("MUJOCO_GL"),
        "cores": len(os.sched_getaffinity(0)),
    }
