"""Env frames per second of a whole training: exact pixels, replay ratio 0.5, past the seed phase.

Ours is ``plasticity-rl fit --config configs/drqv2.yaml`` with all that a run has by default. The reference's parts are
put together as in its ``train.py``, without logger, video and evaluation (none of which would make it faster).
"""

from __future__ import annotations

from typing import Any

from benchmarks.contestants import reference
from benchmarks.contestants.ours import BLANK, QUICK, fit_command
from benchmarks.harness.child import command
from benchmarks.harness.contest import Contestants, Lane
from benchmarks.harness.options import Options
from benchmarks.harness.report import print_rates
from benchmarks.harness.rounds import measured, reference_lanes

ACTION_REPEAT = 2


def run(options: Options) -> dict[str, Any]:
    """Measure and print; return what is kept."""
    full = options.size == "full"
    n = options.units or (20 if full else 10)
    if n % 2:
        raise SystemExit("error: --units must be even: an update comes with every second env step")
    with Contestants() as group:
        ours = []
        extra = [f"--data.task={options.task}"] if full else [*BLANK, *QUICK]
        for name, own in options.variants(overlap=True):
            arguments = [*extra, *own, f"--trainer.accelerator={options.accelerator}"]
            fit = fit_command("TimedTraining", options.size, options.new_folder(), *arguments)
            if contestant := group.start(name, fit):
                ours.append(Lane(name, contestant, {"n": n}))
        theirs = command(
            "contestants.reference:training", path=options.reference, task=options.task, device=options.device
        )
        lanes = [*reference_lanes(options, group, ours, theirs), *ours]
        found = measured(lanes, options.repeats, group, scale=ACTION_REPEAT)
    title = f"end_to_end: env frames per second, {options.task if full else 'blank'}, {n} env steps a turn"
    print_rates(title, "frames/s", found["rows"], lanes[0].name, cpu=False)
    for name, about in found["contestants"].items():
        settings = " ".join(f"{key}={value}" for key, value in about["settings"].items())
        workers = f", {reference.WORKERS} loader workers" if name.startswith("reference") else ""
        print(f"{name}: {about['torch_threads']} threads of torch{workers}; {settings or 'no settings'}")
    return found
