"""What a worker process does: step the environments of its rows, and draw what they show, into shared memory.

The other end is ``worker_process.py``. One command at a time arrives through a pipe, and one answer goes back; what the
environments are given and show never goes through it. When the pipe is closed there is nobody to work for.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from plasticity_rl.envs.shared_columns import Key, Layout, SharedColumns
from plasticity_rl.envs.snapshots import env_state_dict, load_env_state_dict, why_not_exact
from plasticity_rl.errors import UserError, command_line, describe_error
from plasticity_rl.machine.rendering import prepare
from plasticity_rl.rng import processor_rng_state, set_processor_rng_state

ACTION: Key = ("action",)
BUSY: Key = ("busy",)
"""1 where an environment is being stepped, so that whoever finds the process dead knows which one it was."""
NEXT, ROOT = "next", "root"
"""First part of the keys of what a step led to, and of what the next one starts from where that is something else."""
GENERATORS = "generators"
"""Key, in the snapshot of an environment, of the global generators that it draws from."""


@dataclass(frozen=True)
class Job:
    """What a worker is told at its start.

    Attributes:
        build: Pickled by cloudpickle: returns an environment for a ``seed``.
        rows: Numbers of its environments among all.
        seeds: Theirs.
        layout: Of the shared memory.
        num_envs: Of all workers together.
    """

    build: bytes
    rows: range
    seeds: list[int]
    layout: Layout
    num_envs: int


@dataclass(frozen=True)
class Failed:
    """The answer to a command that raised an error.

    Attributes:
        error: Kind and first line.
        traceback: In full.
        of_user: The message, where it is one to the user.
    """

    error: str
    traceback: str
    of_user: str | None


class Worker:
    """The environments of one process.

    Every environment has global generators of its own (of Python, NumPy and torch), seeded with its seed: one that
    draws from them gives the same numbers whatever process it is in, and whoever else is there.

    Args:
        job: What to do.
        memory: Descriptor of the shared memory.
    """

    def __init__(self, job: Job, memory: int) -> None:
        columns = SharedColumns(job.layout, job.num_envs, memory).columns
        self._rows = job.rows
        self._busy, self._done = columns[BUSY].numpy(), columns[NEXT, "done"].numpy()  # NumPy is quick with one number
        self._actions = {row: columns[ACTION][row] for row in job.rows}
        self._shown = {part: {row: _views(columns, part, row) for row in job.rows} for part in (NEXT, ROOT)}
        self._generators: dict[int, dict[str, Any]] = {}
        self._turn: int | None = None
        build: Callable[..., Any] = pickle.loads(job.build)
        self._envs: dict[int, Any] = {}
        for row, seed in zip(job.rows, job.seeds, strict=True):
            with self._turn_of(row):
                random.seed(seed)
                np.random.seed(seed)
                torch.manual_seed(seed)
                self._envs[row] = build(seed=seed)
        self._carriers: dict[int, TensorDictBase] = {}

    @contextlib.contextmanager
    def _turn_of(self, row: int) -> Iterator[None]:
        """Let one environment draw from its generators; what it raises leaves it marked as busy."""
        self._busy[row] = 1
        if self._turn != row:
            if self._turn is not None:
                self._generators[self._turn] = processor_rng_state()
            if row in self._generators:
                set_processor_rng_state(self._generators[row])
            self._turn = row
        yield
        self._busy[row] = 0

    # ---- commands: each takes one argument and returns what is answered ---------------------------------------------

    def why_not_exact(self, _: None) -> str:
        """Return what keeps an environment from being saved, or an empty string."""
        return next(filter(None, map(why_not_exact, self._envs.values())), "")

    def advance(self, adopt: bool) -> None:
        """Step every environment, and reset those that ended.

        Args:
            adopt: Whether they start from what is in the shared memory, and not from where they have come.
        """
        for row, env in self._envs.items():
            with self._turn_of(row):
                step, after = env.step_and_maybe_reset(self._given(row, adopt))
                self._carriers[row] = after
                self._show(row, NEXT, step.get("next"))
                if self._done[row].any():  # else both are the same
                    self._show(row, ROOT, after)

    def step(self, adopt: bool) -> None:
        """Step every environment; those that ended are left so. Argument as of :meth:`advance`."""
        for row, env in self._envs.items():
            with self._turn_of(row):
                step = env.step(self._given(row, adopt))
                self._carriers[row] = env.step_mdp(step)
                self._show(row, NEXT, step.get("next"))

    def reset(self, rows: list[int]) -> None:
        """Reset those of ``rows`` that are here, and show what all that are here will start from."""
        for row, env in self._envs.items():
            with self._turn_of(row):
                if row in rows:
                    self._carriers[row] = env.reset()
                self._show(row, ROOT, self._carriers[row])

    def seed(self, seeds: list[int | None]) -> None:
        """Seed every environment with its number of ``seeds``, of all."""
        for row, env in self._envs.items():
            env.set_seed(seeds[row])

    def state(self, _: None) -> list[dict[str, Any]]:
        """Return an exact snapshot of every environment, and of the global generators that it draws from."""
        states = []
        for row, env in self._envs.items():
            with self._turn_of(row):
                states.append({**env_state_dict(env), GENERATORS: processor_rng_state()})
        return states

    def load(self, states: list[dict[str, Any]]) -> None:
        """Restore snapshots, also those of environments that were in one process and had no generators of their own."""
        for (row, env), state in zip(self._envs.items(), states, strict=True):
            with self._turn_of(row):
                load_env_state_dict(env, {key: value for key, value in state.items() if key != GENERATORS})
                if GENERATORS in state:
                    set_processor_rng_state(state[GENERATORS])

    def close(self, _: None) -> None:
        """Close all environments."""
        for env in self._envs.values():
            env.close(raise_if_closed=False)

    # ---- shared memory ----------------------------------------------------------------------------------------------

    def _given(self, row: int, adopt: bool) -> TensorDictBase:
        """Return what an environment steps from, with the action that was decided for it."""
        if adopt:
            given = {key: view.clone() for key, view in self._shown[ROOT][row].items()}
            self._carriers[row] = TensorDict(given, batch_size=[])
        return self._carriers[row].set("action", self._actions[row].clone())

    def _show(self, row: int, part: str, shown: TensorDictBase) -> None:
        for key, view in self._shown[part][row].items():
            value = shown.get(key)
            if value is None or value.dtype != view.dtype or value.shape != view.shape:
                given = "nothing" if value is None else f"{value.dtype} {tuple(value.shape)}"
                raise UserError(
                    f"data.env: the environment declares {'/'.join(key)} as {view.dtype} {tuple(view.shape)}, but "
                    f"a step returns {given}: let its specs and its steps agree"
                )
            view.copy_(value)


def _views(columns: Mapping[Key, Tensor], part: str, row: int) -> dict[Key, Tensor]:
    return {key[1:]: column[row] for key, column in columns.items() if key[0] == part}


@torch.no_grad()
def serve(pipe: int, memory: int) -> NoReturn:
    """Do what is asked for until it is enough, or nobody is there any more; then end the process.

    Args:
        pipe: Descriptor of this end.
        memory: Descriptor of the shared memory.
    """
    torch.set_num_threads(1)
    prepare()
    connection = Connection(pipe)
    # The process that reads this has built such an environment too, and has shown what there is to be warned about.
    with command_line(), contextlib.suppress(EOFError, ConnectionError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        worker: Worker | None = None
        while True:
            command, argument = pickle.loads(connection.recv_bytes())
            try:
                if command == "start":
                    worker, answer = Worker(argument, memory), None
                else:
                    answer = getattr(worker, command)(argument)
            except Exception as error:
                answer = _failed(error)
            connection.send_bytes(pickle.dumps(answer))
            if command == "close":
                break
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # as processes of multiprocessing end: taking down the interpreter with torch in it takes a second


def _failed(error: Exception) -> Failed:
    of_user = str(error) if isinstance(error, UserError) else None
    return Failed(describe_error(error), traceback.format_exc(), of_user)
