"""Callbacks that measure inside a run of ``plasticity-rl fit``, so that nothing about the run is a stand-in."""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from tensordict import TensorDict

from benchmarks.harness.child import Gate, serve


def random_batch(batch_size: int, obs_shape: tuple[int, ...], action_dim: int) -> TensorDict:
    """Return a batch as the replay gives it, of noise: what is in the pixels changes no time."""
    generator = torch.Generator().manual_seed(0)
    pixels = lambda: torch.randint(0, 256, (batch_size, *obs_shape), dtype=torch.uint8, generator=generator)  # noqa: E731
    batch = TensorDict(
        {
            "pixels": pixels(),
            "action": torch.rand(batch_size, action_dim, generator=generator) * 2 - 1,
            "reward": torch.rand(batch_size, 1, generator=generator),
            "discount": torch.full((batch_size, 1), 0.99**3),
            "next": TensorDict({"pixels": pixels()}, batch_size=[batch_size]),
        },
        batch_size=[batch_size],
    )
    return batch.pin_memory() if torch.cuda.is_available() else batch  # as both replays hand them on


def update(agent: Any) -> Callable[..., Any]:
    """Return what the loop of an agent calls for an update; older versions have no other than ``update``."""
    return getattr(agent, "learn", agent.update)


def graphs_of(agent: Any) -> dict[str, Any]:
    """Return how many updates were captured, replayed and made otherwise so far, with ``model.cuda_graph``."""
    return {"graphs": dict(agent.static_updates.counts)} if getattr(agent, "cuda_graph", False) else {}


class TimedUpdates(pl.Callback):
    """Times the updates of the loop before training begins, in the context in which the Trainer runs a training step.

    With several ranks all do the updates that rank 0 is asked for, each on its share of the batch.

    Args:
        warm_up: Updates before the first measurement; a graph is captured at the fifth.
    """

    cuda_graph = "stays"

    def __init__(self, warm_up: int = 2) -> None:
        self.warm_up = warm_up

    def on_train_start(self, trainer: pl.Trainer, agent: Any) -> None:
        batches: dict[int, TensorDict] = {}

        def work(n: int, batch_size: int) -> dict[str, Any]:
            if batch_size not in batches:
                batches[batch_size] = random_batch(batch_size, agent.data.obs_shape, agent.action_dim)
            for _ in range(n):
                batch = batches[batch_size].to(agent.device)
                with trainer.precision_plugin.train_step_context():
                    update(agent)(batch)
            return graphs_of(agent)

        def together(**request: int) -> dict[str, Any]:
            return work(**{"batch_size": share, **trainer.strategy.broadcast(request)})

        share = agent.data.batch_size // trainer.world_size
        work(max(self.warm_up, 6 if getattr(agent, "cuda_graph", False) else 0), share)
        while trainer.global_rank:  # until rank 0 ends
            together()
        serve(together, device=str(agent.device), precision=str(trainer.precision))


class TimedReplay(pl.Callback):
    """Times the run's own replay before training begins: ``sample`` and ``write``.

    Args:
        episodes: Episodes of 500 env steps to fill it with.
    """

    def __init__(self, episodes: int = 20) -> None:
        self.episodes = episodes

    def on_train_start(self, trainer: pl.Trainer, agent: Any) -> None:
        replay, steps = agent.data.replay, episode_steps(agent.data.obs_shape, agent.action_dim)
        for _ in range(self.episodes):
            for step in steps:
                replay.write(step)

        def work(n: int, what: str) -> None:
            if what == "sample":
                for _ in range(n):
                    replay.sample()
            else:
                for index in range(n):
                    replay.write(steps[index % len(steps)])

        records = int(replay.written.sum())
        bytes_per_record = replay.size_bytes / replay._records.layout.slots
        work(20, "sample")
        serve(work, bytes_per_transition=bytes_per_record * records / replay.num_transitions)


def episode_steps(obs_shape: tuple[int, ...], action_dim: int, length: int = 500) -> list[TensorDict]:
    """Return the steps of one episode as the collector hands them on, of noise."""
    frames = torch.randint(0, 256, (16, 1, *obs_shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    steps = []
    for index in range(length):
        following = {
            "pixels": frames[(index + 1) % 16],
            "reward": torch.ones(1, 1),
            "discount": torch.ones(1, 1),
            "done": torch.tensor([[index == length - 1]]),
        }
        now = {"pixels": frames[index % 16], "action": torch.zeros(1, action_dim)}
        steps.append(TensorDict({**now, "next": TensorDict(following, batch_size=[1])}, batch_size=[1]))
    return steps


class TimedTraining(pl.Callback):
    """Lets a run train in turns of so many env steps, the first of them when it has done some updates.

    Args:
        warm_up: Updates before the first measurement.
        breakdown: Whether the parts of a step are timed as well (two clock readings each).
    """

    cuda_graph = "stays"

    def __init__(self, warm_up: int = 2, breakdown: bool = False) -> None:
        self.warm_up, self.breakdown = warm_up, breakdown
        self._gate: Gate | None = None
        self._parts: defaultdict[str, float] = defaultdict(float)
        self._updates = self._env_steps = 0

    def on_train_start(self, trainer: pl.Trainer, agent: Any) -> None:
        if self.breakdown:
            data, time_it = agent.data, self._timed
            agent.act = time_it("acting", agent.act)
            data.collector.step = time_it("collector", data.collector.step)
            data.replay.write = time_it("replay write", data.replay.write)
            data.replay.sample = time_it("replay sample", data.replay.sample)
            name = update(agent).__name__
            setattr(agent, name, time_it("update", getattr(agent, name)))
            agent.dispatch = time_it("dispatch", agent.dispatch)
            agent.log_progress = time_it("logging", agent.log_progress)
            agent.training_step = time_it("training_step", agent.training_step)

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._parts[name] += time.perf_counter() - start

        return timed

    def on_train_batch_start(self, trainer: pl.Trainer, agent: Any, *args: Any) -> None:
        if self._gate is not None:
            steps, self._env_steps = agent.env_steps - self._env_steps, agent.env_steps
            self._gate.tick(steps, num_updates=agent.num_updates - self._updates, **self._found(agent))
        elif agent.num_updates >= self.warm_up:
            self._gate = Gate()
            self._clear(agent)
            self._gate.open(device=str(agent.device), precision=str(trainer.precision))
        if self._gate is not None and self._gate.begins:
            self._clear(agent)

    def _found(self, agent: Any) -> dict[str, Any]:
        return {**({"parts": dict(self._parts)} if self.breakdown else {}), **graphs_of(agent)}

    def _clear(self, agent: Any) -> None:
        self._parts.clear()
        self._updates, self._env_steps = agent.num_updates, agent.env_steps
