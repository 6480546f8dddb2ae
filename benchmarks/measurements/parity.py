"""The same updates from the same weights on the CPU and on a device: how far apart they come.

Neither noise nor random shifts, so that no generator is in it. In float32 with and without TF32 in the convolutions and
matrix products, and in bfloat16: what rounding alone does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.contestants import reference
from benchmarks.contestants.inside import random_batch
from benchmarks.harness.options import Options
from benchmarks.harness.report import print_table
from benchmarks.measurements.graphs import autocast
from benchmarks.measurements.overhead import DIMENSIONS
from plasticity_rl import DrQV2

UPDATES = 3
WAYS = ("float32", "float32 with TF32", "bfloat16")


def run(options: Options) -> dict[str, Any]:
    """Measure and print; return what is kept."""
    device = reference.choose_device(options.device)
    cpu = updates("cpu", WAYS[0], options.size)
    rows = []
    for way in WAYS:
        there = updates(device, way, options.size)
        apart = (there["weights"] - cpu["weights"]).norm() / (cpu["weights"] - cpu["start"]).norm()
        largest = (there["weights"] - cpu["weights"]).abs().max()
        rows.append((way, cpu["losses"][0], there["losses"][0], there["losses"][-1], float(largest), float(apart)))
    columns = ("on the device", "CPU, first loss", "first loss", "last loss", "largest", "of the way")
    print_table(f"parity: {UPDATES} updates on {device} against float32 on the CPU, {options.size} size", columns, rows)
    print("largest: difference of a weight; of the way: norm of all differences over that of all movement")
    return {"device": device, "rows": [dict(zip(columns, row, strict=True)) for row in rows]}


def updates(device: str, way: str, size: str) -> dict[str, Any]:
    """Return ``losses``, and ``weights`` before (``start``) and after, as one vector each, of some updates."""
    given = dict(DIMENSIONS[size])
    side, batch_size = given.pop("image_size"), given.pop("batch_size")
    torch.manual_seed(0)
    agent = DrQV2((9, side, side), 6, stddev_schedule=0.0, augment=False, lr=1e-4, seed=0, **given).to(device)
    batch = random_batch(batch_size, (9, side, side), 6).to(device)
    start = _flat(agent)
    with _tf32(way == WAYS[1]):
        losses = []
        for _ in range(UPDATES):
            with autocast(torch.device(device), way):
                losses.append(float(agent.update(batch)["loss/critic"]))
    return {"losses": losses, "start": start, "weights": _flat(agent)}


def _flat(agent: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().double().cpu().reshape(-1) for p in agent.parameters()])


@contextlib.contextmanager
def _tf32(on: bool) -> Iterator[None]:
    places = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [place.allow_tf32 for place in places]
    for place in places:
        place.allow_tf32 = on
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.allow_tf32 = value
