"""Kill runs and see what is lost: ``python tests/support/fault_campaign.py [KILLS] [SEED]`` prints a table.

Every run is a forked process that ends by SIGKILL, at a chosen point of writing a checkpoint or at a random time, and
goes on in another one. What it ends with is compared, bit by bit, with the run that nobody killed.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from helpers import fit_tiny, tiny_agent, tiny_sac
from run_state import callback_states, differences, run_state

import callbacks
from plasticity_rl import checkpoint_files
from plasticity_rl.callback import RLCallback
from plasticity_rl.cli.app import quiet
from plasticity_rl.files import writing
from plasticity_rl.replay.files import RecordFiles

RUN: dict[str, Any] = {"max_frames": 230, "data_options": {"eval_every_n_frames": 60, "capacity": 70}}
"""Checkpoints at frames 60, 120, 180 in mid-episode, and at 230; the ring of 70 records goes round."""
AGENTS = {"DrQV2": (tiny_agent, "pixels"), "SAC": (tiny_sac, "state")}
"""How an agent is made, and what it observes."""
MakeCallbacks = Callable[[], Sequence[RLCallback]]


def in_child(work: Callable[[], None]) -> int:
    """Fork, do ``work`` in the child, and return the child's process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    try:
        quiet()
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def finish(child: int) -> int:
    """Wait for a child and return its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def start(
    folder: Path,
    make: MakeCallbacks,
    storage: str,
    sabotage: Callable[[], None] = lambda: None,
    agent_name: str = "DrQV2",
) -> int:
    """Begin or go on with the run in ``folder``, in a child that writes what the run ends with to ``result.json``."""

    def work() -> None:
        sabotage()
        given = list(make())
        resume = "last" if (folder / "checkpoints" / "last.ckpt").exists() else None
        make_agent, observed = AGENTS[agent_name]
        options = {**RUN, "data_options": {**RUN["data_options"], "storage": storage, "observation": observed}}
        agent = fit_tiny(folder, callbacks=given, ckpt_path=resume, make_agent=make_agent, **options)
        (folder / "result.json").write_text(json.dumps([run_state(agent), callback_states(given)], default=str))

    return in_child(work)


def result(folder: Path) -> Any:
    """Return what the run in ``folder`` ended with."""
    return json.loads((folder / "result.json").read_text())


def die(*args: Any) -> None:
    """End this process as the out-of-memory killer would."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(owner: Any, name: str, nth: int, *, after: bool = False, of: str = "") -> None:
    """Let the ``nth`` call of ``owner.name`` die, before or after it is done; of calls whose last argument ends so."""
    original, calls = getattr(owner, name), itertools.count(1)

    def wrapped(*args: Any, **options: Any) -> Any:
        hit = str(args[-1]).endswith(of) and next(calls) == nth
        if hit and not after:
            die()
        value = original(*args, **options)
        if hit:
            die()
        return value

    setattr(owner, name, wrapped)


class HalfWritten(io.FileIO):
    """A file that ends the process when half of what it is given is written."""

    def write(self, content: Any) -> int:
        super().write(content[: len(content) // 2])
        die()
        return 0


def is_draft(path: str | os.PathLike[str]) -> bool:
    """Return whether this is a checkpoint that has not taken its name yet."""
    return str(path).endswith(f"checkpoints/{checkpoint_files.DRAFT}")


def die_half_written(nth: int) -> None:
    """Let the ``nth`` checkpoint die when half of it is written."""
    calls = itertools.count(1)

    def opened(path: Any, mode: str, **options: Any) -> Any:
        return HalfWritten(path, mode) if is_draft(path) and next(calls) == nth else open(path, mode, **options)

    writing.open = opened  # type: ignore[attr-defined]


def die_unsynced(nth: int) -> None:
    """Let the ``nth`` checkpoint die when it is written, but perhaps not on the disk."""
    original, calls = os.fsync, itertools.count(1)

    def fsync(descriptor: int) -> None:
        if is_draft(os.readlink(f"/proc/self/fd/{descriptor}")) and next(calls) == nth:
            die()
        original(descriptor)

    os.fsync = fsync


KILL_POINTS: dict[str, Callable[[], None]] = {
    "replay: before its disk space is taken": lambda: die_at(RecordFiles, "claim_disk", 2),
    "replay: before the high-water mark": lambda: die_at(RecordFiles, "raise_high_water", 2),
    "replay: before its records are copied": lambda: die_at(RecordFiles, "raise_high_water", 2, after=True),
    "replay: before it is synced": lambda: die_at(RecordFiles, "sync", 3),
    "checkpoint: half written": lambda: die_half_written(4),
    "checkpoint: before it is synced": lambda: die_unsynced(4),
    "checkpoint: before it takes its name": lambda: die_at(checkpoint_files.os, "replace", 4, of=".ckpt"),
    "checkpoint: right after": lambda: die_at(checkpoint_files.os, "replace", 4, of=".ckpt", after=True),
}
"""Moments of writing the state down, each of the second or third checkpoint of a run."""


def killed_at(point: str, folder: Path, storage: str, make: MakeCallbacks = tuple) -> Any:
    """Kill a run at a point, let it go on, and return what it ends with."""
    assert finish(start(folder, make, storage, KILL_POINTS[point])) == -signal.SIGKILL, point
    assert finish(start(folder, make, storage)) == 0
    return result(folder)


def killed_at_random(
    rng: random.Random, folder: Path, storage: str, make: MakeCallbacks, seconds: float, agent_name: str = "DrQV2"
) -> Any:
    """Kill a run a random time after its first checkpoint, and let it go on; None if nothing was left to do by then."""
    child = start(folder, make, storage, agent_name=agent_name)
    while not (folder / "checkpoints" / "last.ckpt").exists():
        assert os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None, "the run ended by itself"
        time.sleep(0.01)
    time.sleep(rng.uniform(0, seconds))
    os.kill(child, signal.SIGKILL)
    ended = finish(child) == 0
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    if ended or saved["rl"]["env_frames"] == RUN["max_frames"]:
        return None
    assert finish(start(folder, make, storage, agent_name=agent_name)) == 0
    return result(folder)


def example(name: str) -> RLCallback:
    """Return a callback with the arguments with which it acts within a few updates."""
    cls = getattr(callbacks, name)
    return cls(**cls.example_arguments)


ELSEWHERE = ("WarmStartReplay", "FrozenEncoder", "RandomFrozenEncoder")
"""Callbacks that need another run, or ImageNet weights, before they start."""


def suits(name: str, agent_name: str) -> bool:
    """Return whether the example of a callback runs on an agent: it may need pixels, or name modules of DrQ-v2."""
    cls = getattr(callbacks, name)
    names = {
        part for value in cls.example_arguments.values() for part in (value if isinstance(value, list) else [value])
    }
    return agent_name == "DrQV2" or not (
        cls.needs_pixels or "encoder" in names or any("trunk" in str(n) for n in names)
    )


def campaign(kills: int, seed: int, folder: Path) -> list[tuple[str, str, str, int]]:
    """Kill ``kills`` runs at random times, over agents and callbacks in turn; return both, the storage and losses."""
    rng, rows = random.Random(seed), []
    names = {
        agent: [name for name in sorted(callbacks.__all__) if name not in ELSEWHERE and suits(name, agent)]
        for agent in AGENTS
    }
    for own in names.values():
        rng.shuffle(own)
    in_turn = itertools.zip_longest(*([(agent, name) for name in own] for agent, own in names.items()))
    cases = itertools.cycle([case for together in in_turn for case in together if case])
    for index, (agent, name) in enumerate(itertools.islice(cases, kills)):
        storage, make = ("ram", "memmap")[index // len(AGENTS) % 2], lambda name=name: [example(name)]
        began = time.monotonic()
        assert finish(start(folder / f"{index}-straight", make, storage, agent_name=agent)) == 0, (agent, name)
        seconds, found = time.monotonic() - began, None
        for attempt in itertools.count():
            found = killed_at_random(rng, folder / f"{index}-{attempt}", storage, make, 0.8 * seconds, agent)
            if found is not None:
                break
        lost = differences(result(folder / f"{index}-straight"), found)
        rows.append((agent, name, storage, len(lost)))
        print(f"{index + 1:3} {agent:6} {name:28} {storage:7} {'exact' if not lost else lost[:3]}", flush=True)
    return rows


def main(kills: int = 40, seed: int = 1) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = campaign(kills, seed, Path(folder) / "random")
        lost = sum(row[3] > 0 for row in rows)
        tried = ", ".join(
            f"{len({row[1] for row in rows if row[0] == agent})} callbacks on {agent}" for agent in AGENTS
        )
        print(f"| SIGKILL at a random time | {len(rows)} kills, {tried} | {lost} |")
        for storage in ("ram", "memmap"):
            straight = Path(folder) / f"straight-{storage}"
            assert finish(start(straight, tuple, storage)) == 0
            for number, point in enumerate(KILL_POINTS):
                found = killed_at(point, Path(folder) / f"{storage}-{number}", storage)
                print(
                    f"| SIGKILL, {point} ({storage}) | 1 | {int(differences(result(straight), found) != [])} |",
                    flush=True,
                )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
