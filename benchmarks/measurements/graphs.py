"""Captured updates against ordinary ones on the same device: equal bits, and updates per second.

``equal``: updates by replay and by hand, of the same function on the same static tensors, from the same weights, with
cuDNN's deterministic kernels: after some updates, a surgery in place, toggles, and a move of weights to other memory.
``plain`` compares with the agent's own update, whose learning rate is a number of 64 bits: on a GPU they differ in
rounding. ``rates``: the agent's own update, the same function on static tensors, and replays, in turns.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch

from benchmarks.contestants import reference
from benchmarks.contestants.inside import random_batch
from benchmarks.harness.options import Options
from benchmarks.harness.report import print_table
from benchmarks.measurements.overhead import DIMENSIONS
from plasticity_rl import DrQV2
from plasticity_rl.nn.graphed import EagerRecorder

BY_HAND, REPLAYED, PLAIN = "static tensors", "replayed", "plain"
PRECISIONS = ("float32", "bfloat16")
UPDATES = 10
"""Between two looks: more than the warm-up of a graph."""


def run(options: Options) -> dict[str, Any]:
    """Measure and print; return what is kept."""
    device = torch.device(reference.choose_device(options.device))
    equal, rates = [], []
    for precision in PRECISIONS:
        with _deterministic():
            equal += [{"precision": precision, **row} for row in compared(device, precision, options.size)]
        n = options.units or (200 if options.size == "full" else 5)
        rates += [{"precision": precision, **row} for row in timed(device, precision, options.size, n, options.repeats)]
    columns = ("precision", "after", REPLAYED, PLAIN, "generators", "captured")
    rows = [tuple(row[name] for name in columns) for row in equal]
    print_table(f"graphs: largest difference of a weight from {BY_HAND}, {options.size} size, {device}", columns, rows)
    columns = ("precision", "updates", "per second", "ratio to plain")
    print_table(
        f"graphs: updates per second, {device}", columns, [tuple(row[name] for name in columns) for row in rates]
    )
    return {"device": str(device), "equal": equal, "rates": rates}


def make(device: torch.device, size: str, way: str) -> tuple[DrQV2, torch.Tensor]:
    """Return an agent that updates in one of the three ways, and a batch."""
    given = dict(DIMENSIONS[size])
    side, batch_size = given.pop("image_size"), given.pop("batch_size")
    torch.manual_seed(0)
    agent = DrQV2((9, side, side), 6, lr=1e-4, seed=0, cuda_graph=way != PLAIN, **given).to(device)
    batch = random_batch(batch_size, (9, side, side), 6).to(device)
    if way == BY_HAND:
        agent.learn(batch)
        agent.static_updates.recorder = EagerRecorder()
    else:
        agent.learn(batch)
    return agent, batch


def compared(device: torch.device, precision: str, size: str) -> Iterator[dict[str, Any]]:
    """Yield how far the ways have come apart, after each of the things that may happen to a run."""
    agents = {way: make(device, size, way) for way in (BY_HAND, REPLAYED, PLAIN)}

    def look(after: str) -> dict[str, Any]:
        weights = {way: _flat(agent) for way, (agent, _) in agents.items()}
        states = [[g.get_state() for g in agents[way][0].rng.generators()] for way in (BY_HAND, REPLAYED)]
        same = all(torch.equal(a, b) for a, b in zip(*states, strict=True))
        apart = {way: float((weights[way] - weights[BY_HAND]).abs().max()) for way in (REPLAYED, PLAIN)}
        counts = agents[REPLAYED][0].static_updates.counts
        return {"after": after, **apart, "generators": same, "captured": counts["captured"], "counts": dict(counts)}

    for name, event in EVENTS.items():
        for agent, batch in agents.values():
            event(agent)
            for _ in range(UPDATES):
                with autocast(device, precision):
                    agent.learn(batch)
                agent.env_steps += 2
        yield look(name)


def timed(device: torch.device, precision: str, size: str, n: int, repeats: int) -> Iterator[dict[str, Any]]:
    """Yield rows of updates per second, in turns; the first round warms up."""
    agents = {way: make(device, size, way) for way in (PLAIN, BY_HAND, REPLAYED)}
    rates: dict[str, list[float]] = {way: [] for way in agents}
    for repeat in range(repeats + 1):
        for way, (agent, batch) in agents.items():
            _wait(device)
            start = time.perf_counter()
            for _ in range(n if repeat else UPDATES):
                with autocast(device, precision):
                    agent.learn(batch)
            _wait(device)
            if repeat:
                rates[way].append(n / (time.perf_counter() - start))
    for way, own in rates.items():
        ratios = [rate / plain for rate, plain in zip(own, rates[PLAIN], strict=True)]
        yield {"updates": way, "per second": median(own), "ratio to plain": median(ratios), "rounds": own}


def _nothing(agent: DrQV2) -> None:
    pass


@torch.no_grad()
def _surgery(agent: DrQV2) -> None:
    layer = agent.critic.Q1[0]
    layer.weight.mul_(0.5)
    optimizer = agent.optimizer_of(layer.weight)
    assert optimizer is not None
    for value in optimizer.state[layer.weight].values():
        value.zero_()


def _toggle(agent: DrQV2) -> None:
    agent.augment = not agent.augment


def _move(agent: DrQV2) -> None:
    for parameter in agent.actor.parameters():
        parameter.data = parameter.data.clone()


EVENTS: dict[str, Callable[[DrQV2], None]] = {
    "the start": _nothing,
    "a surgery in place": _surgery,
    "augmentation off": _toggle,
    "augmentation on": _toggle,
    "weights in other memory": _move,
}


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context of an update in a precision, as Lightning has it.

    A cast that is kept would be of weights before a step: those of an earlier update, or the critic's in the actor's.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _flat(agent: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().double().cpu().reshape(-1) for p in agent.parameters()])
