"""Measure this package, each part against the original implementation where that is given, in one run, in turns.

    python -m benchmarks learner replay render --reference PATH_OF_A_CLONE_OF_DRQV2 --json results.json
    python -m benchmarks scaling --figure scaling.svg
    python -m benchmarks probes -- --config configs/drqv2.yaml --together-only

learner     gradient updates per second, float32 and bf16, with and without compile
replay      batches per second, cost of writing, bytes per transition, in memory and memory-mapped
render      frames per second, exact and fast
end_to_end  env frames per second of a whole training, replay ratio 0.5, past the seed phase
overhead    what Lightning, TorchRL and the default callbacks add to a plain loop with the same updates; also of other
            worktrees of this repository: --against PATH, as often as wanted
scaling     cost against batch size, image size, size of the replay, number of environments
env_scaling env steps per second against worker processes, exact and fast drawing
probes      what the default probes cost (options after --; see benchmarks/measurements/probes.py)
callbacks   what each intervention adds to an update, and what one of its events costs (--only NAME ...); the error is
            what those seem to add that do nothing between their events
parity      the same updates on the CPU and on a device
graphs      captured updates (model.cuda_graph) against ordinary ones: equal bits, updates per second
gpu         parity, graphs, learner, end_to_end and env_scaling within --seconds, for a machine with a GPU; where that
            has no network, python -m benchmarks.offline makes a folder to take along

Contestants are processes that are stopped while it is another one's turn. Shown is the median over the repeats, and the
ratio to the first row of each round. Without --reference: our own numbers only.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import time
from pathlib import Path

from benchmarks.contestants import reference
from benchmarks.contestants.ours import SIZES
from benchmarks.harness import report
from benchmarks.harness.options import Options

NAMES = (
    "learner",
    "replay",
    "render",
    "end_to_end",
    "overhead",
    "scaling",
    "env_scaling",
    "probes",
    "callbacks",
    "parity",
    "graphs",
    "gpu",
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=NAMES, metavar="NAME")
    parser.add_argument("--reference", metavar="PATH", help="a clone of github.com/facebookresearch/drqv2")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--json", type=Path, help="keep everything in this file")
    parser.add_argument("--size", choices=SIZES, default="full", help="tiny: seconds, to see that all of this works")
    parser.add_argument("--task", default="walker_run")
    parser.add_argument("--threads", type=int, default=0, help="of torch, in learner and scaling (default: cores)")
    parser.add_argument("--cores", type=int, help="cores that every process may use (default: all)")
    parser.add_argument("--units", type=int, help="units of work in a turn: updates, batches, env steps")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--ours", action="append", default=[], metavar="OPTIONS", help="one more row: options of fit")
    parser.add_argument("--without", nargs="*", default=[], metavar="ROW", help="rows of ours to leave out, e.g. bf16")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="interventions of callbacks")
    parser.add_argument("--seconds", type=float, default=470.0, help="of gpu, all stages together (default 470)")
    parser.add_argument(
        "--against", action="append", default=[], type=Path, metavar="PATH", help="overhead: another worktree as a row"
    )
    parser.add_argument("--figure", type=Path, help="figure of scaling, svg or png")
    return parser


def main() -> None:
    """Run what is asked for, one benchmark after the other."""
    parser = _parser()
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    given = {**vars(parser.parse_args(sys.argv[1:end])), "probes": sys.argv[end + 1 :]}
    names, kept, cores = given.pop("names"), given.pop("json"), given.pop("cores")
    if given["reference"]:
        given["reference"] = str(Path(given["reference"]).resolve())
        reference.check(given["reference"])
        if given["size"] != "full":
            parser.error("the reference exists at --size full only")
    for path in given["against"]:
        if not (path / "benchmarks").is_dir():
            parser.error(f"--against {path}: no worktree of this repository; git worktree add PATH COMMIT")
    given["against"] = [path.resolve() for path in given["against"]]
    if cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    options = Options(**given)
    results: dict = {
        "machine": report.machine(),
        "options": {**given, "figure": str(given["figure"]), "against": [str(path) for path in given["against"]]},
    }
    if options.reference:
        results["reference"] = reference.revision(options.reference)
    for key, value in results["machine"].items():
        print(f"{key:12} {value}")
    # Contestants that stand still when this process is asked to end must be ended by it.
    told: list[int] = []

    def end(number: int, _: object) -> None:
        told.append(number)
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        for name in dict.fromkeys(names):
            load, start = report.load_average(), time.monotonic()
            results[name] = importlib.import_module(f"benchmarks.measurements.{name}").run(options)
            results[name]["load_before"], results[name]["minutes"] = load, round((time.monotonic() - start) / 60, 1)
            print(f"\nload average before: {load}; took {results[name]['minutes']} minutes")
            if kept:
                report.keep(kept, results)
            if told:  # in a round that was not the first: what was whole is kept, and nothing else begins
                sys.exit(128 + told[0])
    finally:
        signal.signal(signal.SIGTERM, before)
        options.close()


if __name__ == "__main__":
    main()
