"""What one fused call of Adam is worth: updates with it and with torch's default, in turns, in one process.

python -m benchmarks.measurements.adam --repeats 7
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from benchmarks.contestants.inside import random_batch
from benchmarks.harness.child import Stopwatch
from benchmarks.harness.report import machine, print_rates, rate_rows
from benchmarks.measurements.overhead import DIMENSIONS
from plasticity_rl import DrQV2
from plasticity_rl.machine.malloc import keep_freed_memory

QUICKSTART = {"image_size": 48, "batch_size": 64, "hidden_dim": 128, "num_channels": 8}
SIZES = {**DIMENSIONS, "quickstart": QUICKSTART}
UPDATES = {"full": 1, "quickstart": 20, "tiny": 100}
"""Updates in a turn."""
BASELINE = "torch's default"


def measure(size: str, repeats: int) -> list[dict[str, Any]]:
    """Return rows of milliseconds per update; the first round warms up and is not counted."""
    chosen = dict(SIZES[size])
    image_size, batch_size, updates = chosen.pop("image_size"), chosen.pop("batch_size"), UPDATES[size]
    batch = random_batch(batch_size, (9, image_size, image_size), 6)
    agents = {}
    for name, options in ((BASELINE, {}), ("fused", {"fused": True})):
        agent = agents[name] = DrQV2((9, image_size, image_size), 6, **chosen)
        adams = [adam.param_groups[0]["params"] for adam in agent.configure_optimizers()]
        agent._own_optimizers = [torch.optim.Adam(parameters, lr=agent.lr, **options) for parameters in adams]
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in agents}
    for repeat in range(repeats + 1):
        for name, agent in agents.items():
            watch = Stopwatch()
            for _ in range(updates):
                agent.update(batch)
            seconds = watch.read()
            if repeat:
                answers[name].append({"units": updates, **seconds})
    return rate_rows(answers, BASELINE, better="lower", scale=1e3)


def main() -> None:
    """Measure all sizes and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    for key, value in machine().items():
        print(f"{key:12} {value}")
    for size in SIZES:
        print_rates(f"adam: ms per update, {size}", "ms/update", measure(size, options.repeats), BASELINE)


if __name__ == "__main__":
    main()
