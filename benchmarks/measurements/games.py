"""What an update and a decision of the agent for games cost, by network, on batches that are already there.

python -m benchmarks.measurements.games --repeats 5
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDict

from benchmarks.harness.child import Stopwatch
from benchmarks.harness.report import machine, print_table
from plasticity_rl import DQN
from plasticity_rl.machine.malloc import keep_freed_memory

PIXELS, SMALL, MINATAR = (4, 84, 84), (4, 42, 42), (10, 10, 10)
C51: dict[str, Any] = {"dueling": True, "num_atoms": 51}
NETWORKS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "Nature": (PIXELS, {"encoder": "nature"}),
    "Nature, dueling": (PIXELS, {"encoder": "nature", "dueling": True}),
    "Nature, dueling, 51 atoms": (PIXELS, {"encoder": "nature", **C51}),
    "the same, noisy: Rainbow": (PIXELS, {"encoder": "nature", "noisy_sigma": 0.5, **C51}),
    "DER, dueling, 51 atoms": (PIXELS, {"encoder": "der", "hidden_dim": 256, **C51}),
    "mini": (SMALL, {"encoder": "mini", "hidden_dim": 128}),
    "MinAtar": (MINATAR, {"encoder": "minatar", "hidden_dim": 128}),
}
"""Shape of an observation and options of the agent, double everywhere; six actions, batches of 32."""
ACTIONS, BATCH_SIZE = 6, 32
DECISIONS_PER_UPDATE = 10
"""How many are timed for each update, as one takes a thirtieth of the time."""


def random_games(obs_shape: tuple[int, ...]) -> TensorDict:
    """Return a batch of noise with the keys of a batch of games."""
    draw = lambda: torch.randint(256, (BATCH_SIZE, *obs_shape), dtype=torch.uint8)  # noqa: E731
    values = {
        "pixels": draw(),
        "action": torch.randint(ACTIONS, (BATCH_SIZE, 1)),
        "reward": torch.randn(BATCH_SIZE, 1),
        "discount": torch.full((BATCH_SIZE, 1), 0.97),
        "next": {"pixels": draw()},
    }
    return TensorDict(values, batch_size=[BATCH_SIZE])


def measure(names: list[str], repeats: int, updates: int) -> dict[str, dict[str, float]]:
    """Return parameters, and medians of milliseconds per update and per decision; networks take turns.

    The first round warms up and is not counted.
    """
    agents = {name: DQN(NETWORKS[name][0], ACTIONS, num_seed_frames=0, **NETWORKS[name][1]) for name in names}
    batches = {name: random_games(NETWORKS[name][0]) for name in names}
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in names}
    for repeat in range(repeats + 1):
        for name, agent in agents.items():
            one = batches[name]["pixels"][:1]
            update = _ms(lambda agent=agent, name=name: agent.update(batches[name]), updates)
            act = _ms(lambda agent=agent, one=one: agent.act(one, explore=True), DECISIONS_PER_UPDATE * updates)
            if repeat:
                times[name][0].append(update)
                times[name][1].append(act)
    return {
        name: {
            "parameters": sum(
                p.numel() for p in [*agents[name].encoder.parameters(), *agents[name].critic.parameters()]
            ),
            "update_ms": statistics.median(update),
            "act_ms": statistics.median(act),
        }
        for name, (update, act) in times.items()
    }


def _ms(do: Callable[[], Any], n: int) -> float:
    watch = Stopwatch()
    for _ in range(n):
        do()
    return 1e3 * watch.read()["cpu_seconds"] / n


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--updates", type=int, default=10, help="in a turn")
    parser.add_argument("--only", nargs="+", default=list(NETWORKS), choices=NETWORKS, metavar="NETWORK")
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    for key, value in machine().items():
        print(f"{key:12} {value}")
    found = measure(options.only, options.repeats, options.updates)
    rows = [(name, one["parameters"] / 1e6, one["update_ms"], one["act_ms"]) for name, one in found.items()]
    title = "games: milliseconds of processor time on one thread, medians"
    print_table(title, ("network", "million weights", "update, ms", "act, ms"), rows)


if __name__ == "__main__":
    main()
