"""Batches per second, cost of writing a transition, and bytes per transition."""

from __future__ import annotations

from typing import Any

from benchmarks.contestants import reference
from benchmarks.contestants.ours import BLANK, fit_command
from benchmarks.harness.child import command
from benchmarks.harness.contest import Contestants, Lane, interleave
from benchmarks.harness.options import Options
from benchmarks.harness.report import print_rates, print_table, rate_rows

STORAGES = ("ram", "memmap")


def run(options: Options) -> dict[str, Any]:
    """Measure and print; return what is kept."""
    full = options.size == "full"
    episodes, n = (20, options.units or 60) if full else (2, 5)
    lanes: list[Lane] = []
    with Contestants() as group:
        ours = []
        for storage in STORAGES:
            extra = [*BLANK, f"--data.storage={storage}", f"--trainer.callbacks.episodes={episodes}"]
            fit = fit_command("TimedReplay", options.size, options.new_folder(), *extra)
            if contestant := group.start(f"ours, {storage}", fit):
                ours.append(Lane(f"ours, {storage}", contestant, {"n": n, "what": "sample"}))
        if options.reference:
            for workers in sorted({1, options.threads, reference.WORKERS}):
                name = f"reference, {workers} worker{'s' if workers > 1 else ''}"
                arguments = {"path": options.reference, "task": options.task, "workers": workers, "episodes": episodes}
                if contestant := group.start(
                    name, command("contestants.reference:replay", **arguments), reference.settings()
                ):
                    lanes.append(Lane(name, contestant, {"n": n, "what": "sample"}))
        theirs, lanes = lanes, [*lanes, *ours]
        sampling = interleave(lanes, options.repeats)
        # A turn of writing is a whole episode: at its end the reference compresses it into a file.
        writers = [lane._replace(request={"n": 501, "what": "write"}) for lane in [*theirs[:1], *ours]]
        writing = interleave(writers, options.repeats)
        ready = {lane.name: lane.contestant.ready for lane in lanes}
        failed = group.failed
    their_names = {lane.name for lane in theirs}
    their_rows = [row for row in rate_rows(sampling, None) if row["name"] in their_names]
    best = max(their_rows, default=None, key=lambda row: row["median"])
    baseline = best["name"] if best else None
    sampled, written = rate_rows(sampling, baseline), rate_rows(writing, lanes[0].name, better="lower", scale=1e3)
    print_rates(
        f"replay: batches per second, {options.threads} cores for everybody", "batches/s", sampled, baseline, cpu=False
    )
    print_rates("replay: writing", "ms/env step", written, lanes[0].name)
    sizes = _bytes(ready, full)
    print_table("replay: bytes per transition", ("", "bytes", "of the reference"), sizes)
    return {"sampling": sampled, "writing": written, "bytes": sizes, "contestants": ready, "failed": failed,
            "answers": {"sampling": sampling, "writing": writing}}  # fmt: skip


def _bytes(ready: dict[str, dict[str, Any]], full: bool) -> list[tuple[str, float, str]]:
    """Return name, bytes per transition, and the share of the reference's arrays in memory, where it was measured."""
    of_reference = next((about["array_bytes"] for about in ready.values() if "array_bytes" in about), None)
    file_bytes = next((about["file_bytes"] for about in ready.values() if "file_bytes" in about), None)
    pixels, action_dim = (9 * 84 * 84 if full else 9 * 16 * 16), 6
    rows = [(name, about["bytes_per_transition"]) for name, about in ready.items() if "bytes_per_transition" in about]
    rows += [("observation pairs (computed)", float(2 * pixels + 4 * (action_dim + 2)))]
    if of_reference:
        rows += [("reference, arrays in its loader", of_reference), ("reference, its compressed files", file_bytes)]
    return [(name, value, f"{value / of_reference:.3f}" if of_reference else "") for name, value in rows]
