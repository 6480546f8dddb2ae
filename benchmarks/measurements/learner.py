"""Gradient updates per second at full size: the update of the agent alone, on batches that are already there."""

from __future__ import annotations

from typing import Any

from benchmarks.contestants.ours import BLANK, fit_command
from benchmarks.harness.child import command
from benchmarks.harness.contest import Contestants, Lane
from benchmarks.harness.options import Options
from benchmarks.harness.report import print_rates
from benchmarks.harness.rounds import measured, reference_lanes


def run(options: Options) -> dict[str, Any]:
    """Measure and print; return what is kept."""
    threads = {"OMP_NUM_THREADS": str(options.threads)}
    n = options.units or (4 if options.size == "full" else 2)
    with Contestants() as group:
        ours = []
        for name, extra in options.variants(compiled=options.size == "full"):
            arguments = [*BLANK, *extra, f"--trainer.accelerator={options.accelerator}"]
            fit = fit_command("TimedUpdates", options.size, options.new_folder(), *arguments)
            if contestant := group.start(name, fit, threads):
                ours.append(Lane(name, contestant, {"n": n}))
        theirs = command("contestants.reference:updates", path=options.reference, device=options.device)
        lanes = [*reference_lanes(options, group, ours, theirs, threads), *ours]
        found = measured(lanes, options.repeats, group)
    title = f"learner: updates per second, {options.size} size, {options.threads} threads each"
    print_rates(title, "updates/s", found["rows"], lanes[0].name)
    return found
