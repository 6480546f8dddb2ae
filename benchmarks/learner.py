"""Gradient updates per second at full size: the update of the agent alone, on batches that are already there."""

from __future__ import annotations

from typing import Any

from benchmarks import reference
from benchmarks.contest import Contestants, Lane, interleave
from benchmarks.options import Options
from benchmarks.ours import BLANK, fit_command
from benchmarks.report import print_rates, rate_rows

REFERENCE = "reference"


def run(options: Options) -> dict[str, Any]:
    """Measure and print; return what is kept."""
    threads = {"OMP_NUM_THREADS": str(options.threads)}
    lanes: list[Lane] = []
    n = options.units or (4 if options.size == "full" else 2)
    with Contestants() as group:
        ours, ready = [], {}
        for name, extra in options.variants(compiled=options.size == "full"):
            arguments = [*BLANK, *extra, f"--trainer.accelerator={options.accelerator}"]
            command = fit_command("TimedUpdates", options.size, options.new_folder(), *arguments)
            if contestant := group.start(name, command, threads):
                ours.append(Lane(name, contestant, {"n": n}))
        if options.reference:
            command = reference.updates_command(options.reference, options.device)
            for name, settings in options.reference_settings(ours[0].contestant.ready["settings"], threads):
                if contestant := group.start(name, command, settings):
                    lanes.append(Lane(name, contestant, {"n": n}))
        lanes += ours
        ready = {lane.name: lane.contestant.ready for lane in lanes}
        answers = interleave(lanes, options.repeats)
        failed = group.failed
    baseline = lanes[0].name
    rows = rate_rows(answers, baseline)
    title = f"learner: updates per second, {options.size} size, {options.threads} threads each"
    print_rates(title, "updates/s", rows, baseline)
    return {"rows": rows, "answers": answers, "contestants": ready, "failed": failed}
