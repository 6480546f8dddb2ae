"""Cost against batch size, image size, size of the replay, number of environments and of ranks; draws one figure."""

from __future__ import annotations

import shlex
import statistics
from pathlib import Path
from typing import Any

from benchmarks.contestants.ours import BLANK, fit_command
from benchmarks.harness.child import command, serve
from benchmarks.harness.contest import Contestants, Lane, interleave
from benchmarks.harness.options import Options
from benchmarks.harness.report import print_table

RANGES = {
    "full": {
        "batch size": [32, 64, 128, 256, 512],
        "image size": [48, 64, 84, 100],
        "transitions in the replay": [10_000, 30_000, 100_000, 300_000, 1_000_000],
        "environments": [1, 2, 4, 8],
        "ranks": [1, 2],
    },
    "tiny": {
        "batch size": [4, 8],
        "image size": [16, 24],
        "transitions in the replay": [1000, 2000],
        "environments": [1, 2],
        "ranks": [1, 2],
    },
}
MEASURED = {
    "batch size": "ms per update",
    "image size": "ms per update",
    "transitions in the replay": "ms per batch of 256",
    "environments": "ms per env step",
    "ranks": "ms per update of all",
}
REPLAY_IMAGE_SIZE = 32
"""Frames of 3 KB, so that a million of them fit into memory; those of 84 pixels have 21 KB."""


def run(options: Options) -> dict[str, Any]:
    """Measure, print and draw; return what is kept."""
    ranges = RANGES[options.size]
    threads = {"OMP_NUM_THREADS": str(options.threads)}
    found: dict[str, Any] = {}
    for what, measure in (
        ("batch size", _batch_sizes),
        ("image size", _image_sizes),
        ("transitions in the replay", _replay_sizes),
        ("environments", _environments),
        ("ranks", _ranks),
    ):
        with Contestants() as group:
            lanes = measure(options, ranges[what], group, threads)
            answers = interleave(lanes, options.repeats) if lanes else {}
        ms = {name: [1e3 * turn["seconds"] / turn["units"] for turn in turns] for name, turns in answers.items()}
        found[what] = [(float(x), statistics.median(y), min(y), max(y)) for x, y in ms.items()]
        print_table(
            f"scaling: {MEASURED[what]} ({options.threads} threads)", (what, "median", "min", "max"), found[what]
        )
    if options.figure:
        draw(found, options.figure)
    return found


def _batch_sizes(options: Options, sizes: list[int], group: Contestants, threads: dict[str, str]) -> list[Lane]:
    contestant = group.start("batch sizes", _updates(options), threads)
    return [Lane(str(size), contestant, {"n": 3, "batch_size": size}) for size in sizes] if contestant else []


def _image_sizes(options: Options, sizes: list[int], group: Contestants, threads: dict[str, str]) -> list[Lane]:
    lanes = []
    for size in sizes:
        fit = _updates(options, f"--data.image_size={size}")
        if contestant := group.start(f"images of {size} pixels", fit, threads):
            lanes.append(Lane(str(size), contestant, {"n": 3}))
    return lanes


def _updates(options: Options, *own: str) -> list[str]:
    """Return ``fit`` that times updates, with the options ``own`` and those of ``--ours``."""
    arguments = [*BLANK, f"--trainer.accelerator={options.accelerator}", *shlex.split(" ".join(options.ours)), *own]
    return fit_command("TimedUpdates", options.size, options.new_folder(), *arguments)


def _replay_sizes(options: Options, sizes: list[int], group: Contestants, threads: dict[str, str]) -> list[Lane]:
    contestant = group.start("replays", command("measurements.scaling:replays", sizes=sizes), threads)
    return [Lane(str(size), contestant, {"n": 50, "size": size}) for size in sizes] if contestant else []


def replays(sizes: list[int]) -> None:
    """Contestant: one full replay of each size."""
    import torch
    from tensordict import TensorDict

    from plasticity_rl.replay.buffer import FrameReplay

    frame = (3, REPLAY_IMAGE_SIZE, REPLAY_IMAGE_SIZE)
    pixels = torch.randint(0, 256, (501, *frame), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    columns = {
        "pixels": pixels,
        "action": torch.zeros(501, 6),
        "reward": torch.ones(501),
        "discount": torch.ones(501),
        "terminal": torch.arange(501) == 500,
        "step": torch.arange(501),
    }
    episode = TensorDict(columns, batch_size=[501])
    full = {}
    for size in sizes:
        replay = full[size] = FrameReplay(obs_shape=(9, *frame[1:]), action_dim=6, capacity=size, seed=1)
        for _ in range(size // 501 + 1):
            replay.append_episode(0, episode)
        for _ in range(5):
            replay.sample()

    def work(n: int, size: int) -> None:
        for _ in range(n):
            full[size].sample()

    serve(work)


def _environments(options: Options, counts: list[int], group: Contestants, threads: dict[str, str]) -> list[Lane]:
    arguments = {"task": options.task, "counts": counts, "image_size": 84 if options.size == "full" else 16}
    contestant = group.start(
        "environments", command("measurements.scaling:environments", **arguments), {"OMP_NUM_THREADS": "1"}
    )
    steps = 40 if options.size == "full" else 4
    return [Lane(str(count), contestant, {"n": steps, "count": count}) for count in counts] if contestant else []


def environments(task: str, counts: list[int], image_size: int) -> None:
    """Contestant: the collector over so many environments, with exact pixels and random actions."""
    import torch

    from plasticity_rl import make_env
    from plasticity_rl.data.collector import StepCollector

    def collector(count: int) -> StepCollector:
        env = make_env(task, seed=1, num_envs=count, image_size=image_size)
        action_dim = env.action_spec.shape[-1]
        return StepCollector(lambda: env, lambda observations: torch.rand(len(observations), action_dim) * 2 - 1)

    collectors = {count: collector(count) for count in counts}

    def work(n: int, count: int) -> None:
        for _ in range(n // count):
            collectors[count].step()

    for count in counts:
        work(2 * count, count)
    serve(work)


def _ranks(options: Options, counts: list[int], group: Contestants, threads: dict[str, str]) -> list[Lane]:
    """Return a lane for every number of ranks, which share the batch and the cores (on GPUs: a GPU for each)."""
    lanes = []
    for count in counts:
        fit = _updates(options, f"--trainer.devices={count}")
        own = {"OMP_NUM_THREADS": str(max(options.threads // count, 1))}
        if contestant := group.start(f"{count} ranks", fit, own):
            lanes.append(Lane(str(count), contestant, {"n": 3}))
    return lanes


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw every cost against what it depends on; bars are the range over the rounds."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams["svg.hashsalt"] = "plasticity_rl"  # the same numbers, the same file
    figure, axes = plt.subplots(1, len(found), figsize=(2.6 * len(found), 2.5), constrained_layout=True)
    for axis, (what, rows) in zip(axes, found.items(), strict=True):
        x, y, low, high = zip(*rows, strict=True)
        errors = [[b - a for a, b in zip(low, y, strict=True)], [b - a for a, b in zip(y, high, strict=True)]]
        axis.errorbar(x, y, yerr=errors, marker="o", markersize=3, linewidth=1.2, capsize=2)
        axis.set(xlabel=what, ylabel=MEASURED[what], ylim=(0, None))
        if what == "transitions in the replay":
            axis.set_xscale("log")
        else:
            axis.set_xlim(0, None)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150)
    print(f"\nfigure in {path}")
