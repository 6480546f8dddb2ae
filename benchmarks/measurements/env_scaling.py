"""Env steps per second against worker processes, exact and fast drawing, against one environment in one process."""

from __future__ import annotations

import os
import sys
from typing import Any

from benchmarks.harness.child import command, serve
from benchmarks.harness.contest import Contestants, Lane, interleave
from benchmarks.harness.options import Options
from benchmarks.harness.report import print_rates, rate_rows

BASE = "1 environment, in this process"


def worker_counts(cores: int) -> list[int]:
    """Return 1, 2, 4 ... up to the cores, and the cores."""
    return [2**i for i in range(cores.bit_length()) if 2**i < cores] + [cores]


def run(options: Options) -> dict[str, Any]:
    """Measure and print; return what is kept.

    Every lane steps as many environments as it has workers, through the collector, with random actions and no updates
    between; a row of as many environments in one process says what workers themselves win.
    """
    full = options.size == "full"
    counts = worker_counts(len(os.sched_getaffinity(0))) if full else [2]
    found: dict[str, Any] = {}
    for render in ("exact", "fast"):
        arguments = {"task": options.task, "render": render, "counts": counts, "image_size": 84 if full else 16}
        with Contestants() as group:
            contestant = group.start(
                f"environments, {render}", command("measurements.env_scaling:environments", **arguments), {}
            )
            if contestant is None:
                sys.exit(1)
            steps = options.units or {"exact": 100, "fast": 400}[render] if full else 2 * counts[-1]
            lanes = [Lane(name, contestant, {"which": name, "n": steps}) for name in contestant.ready["lanes"]]
            answers = interleave(lanes, options.repeats)
            about = contestant.ready
        rows = rate_rows(answers, BASE)
        title = f"env_scaling: env steps per second, {options.task}, {render}, {about['backend']}"
        print_rates(title, "env steps/s", rows, BASE, cpu=False)
        found[render] = {"rows": rows, "answers": answers, "contestant": about}
    return found


def environments(task: str, render: str, counts: list[int], image_size: int) -> None:
    """Contestant: the collector over each number of workers, and over as many environments in this process.

    All are there at once, in turns; those whose turn it is not wait in a pipe and use no processor.
    """
    from plasticity_rl.machine.rendering import prepare

    prepare()
    import torch

    from plasticity_rl import RLDataModule
    from plasticity_rl.data.collector import StepCollector

    torch.set_num_threads(1)
    collectors: dict[str, StepCollector] = {}
    for count, workers in [(1, 0), (counts[-1], 0), *((count, count) for count in counts)]:
        where = f"in {workers} worker{'s' * (workers > 1)}" if workers else "in this process"
        name = f"{count} environment{'s' * (count > 1)}, {where}"
        if name in collectors:
            continue
        data = RLDataModule(
            task,
            render=render,
            image_size=image_size,
            num_envs=count,
            env_workers=workers,
            eval_every_n_frames=2 * count,
        )
        build = lambda data=data: data._make_training_env(task, seed=1)  # noqa: E731
        act = lambda observations, dim=data.action_dim: torch.rand(len(observations), dim) * 2 - 1  # noqa: E731
        collectors[name] = StepCollector(build, act)

    def work(n: int, which: str) -> dict[str, int]:
        collector = collectors[which]
        ticks = -(-n // collector.num_envs)
        for _ in range(ticks):
            collector.step()
        return {"units": ticks * collector.num_envs}

    for name, collector in collectors.items():
        work(3 * collector.num_envs, name)
    serve(work, lanes=list(collectors), backend=os.environ.get("MUJOCO_GL", "dm_control's choice"))
