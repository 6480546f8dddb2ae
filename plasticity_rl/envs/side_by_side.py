"""Several environments of one task in processes of their own, as one environment: they step and draw side by side.

The numbers are those of the same environments in this process, however many workers share them: a step waits for all,
and what each gave lies where its number says.

TorchRL's ``ParallelEnv`` (0.14.1) was tried first. It keeps a core busy while it waits (it asks the shared memory for
flags, holding Python's lock: 8.5 ms of processor time per env step of dm_control from two workers, here 0.3), one that
environments and updates could have; a process is for one environment; a snapshot holds the buffers of transforms but
not the simulator; of an error in an environment it says "worker 0 dead"; a hang ends after 10 000 seconds.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle
import torch
from tensordict import TensorDict, TensorDictBase

from plasticity_rl.envs import worker_process
from plasticity_rl.envs.shared_columns import Key, SharedColumns
from plasticity_rl.envs.worker import ACTION, BUSY, NEXT, ROOT, Job
from plasticity_rl.envs.worker_process import WorkerFailed, WorkerProcess
from plasticity_rl.errors import RunFailure, UserError, describe_error
from plasticity_rl.machine.rendering import rendering_errors

with rendering_errors():
    from torchrl.envs import EnvBase


def shared_out(num_envs: int, num_workers: int) -> list[range]:
    """Return the numbers of each worker's environments: as many of each as it goes, the first have one more."""
    each, more = divmod(num_envs, num_workers)
    firsts = [each * i + min(i, more) for i in range(num_workers + 1)]
    return [range(first, after) for first, after in zip(firsts, firsts[1:], strict=False)]


class EnvsSideBySide(EnvBase):
    """Environments in worker processes.

    Keys and shapes are those of :class:`~plasticity_rl.envs.several.SeveralEnvs`, or for a single one those of itself.
    Every wait ends: see ``SECONDS_TO_ANSWER`` in ``worker_process.py``.

    Attributes:
        task_name: Name of the task.
        action_repeat: Env frames per env step.

    Args:
        build: Returns one environment for a ``seed``; it is called in the workers. Functions of modules, of the user's
            script, and without a name can be sent there; what holds on to files or processes cannot.
        seeds: One for each environment.
        num_workers: Processes that share them, at most as many.
        like: Such an environment in this process; only its specs are read.

    Raises:
        UserError: When ``build`` cannot be sent, or an environment does not start.
        RunFailure: When a worker ends before it is ready, or is not ready in time.
    """

    def __init__(self, build: Callable[..., EnvBase], seeds: list[int], num_workers: int, like: EnvBase) -> None:
        self._batch = [len(seeds)] if len(seeds) > 1 else []
        super().__init__(device=torch.device("cpu"), batch_size=torch.Size(self._batch))
        self.task_name = getattr(like, "task_name", None)
        self.action_repeat = getattr(like, "action_repeat", None)
        self._take_specs(like)
        memory = SharedColumns(self._layout(like), len(seeds))
        every = {key: column if self._batch else column[0] for key, column in memory.columns.items()}
        self._action = every[ACTION]
        self._columns = {
            part: {key[1:]: column for key, column in every.items() if key[0] == part} for part in (NEXT, ROOT)
        }
        self._carrier: TensorDictBase | None = None
        self._under_way = False
        self._workers: list[WorkerProcess] = []
        self._end = weakref.finalize(self, worker_process.kill, self._workers, os.getpid())  # also at exit
        try:
            self._start(_sendable(build), seeds, shared_out(len(seeds), num_workers), memory, self._layout(like))
        finally:
            memory.close_file()

    def _take_specs(self, like: EnvBase) -> None:
        for name in ("full_observation_spec", "full_action_spec", "full_reward_spec", "full_done_spec"):
            spec = getattr(like, name).clone()
            setattr(self, name, spec.expand(*self._batch, *spec.shape) if self._batch else spec)

    def _layout(self, like: EnvBase) -> dict[Key, tuple[torch.dtype, tuple[int, ...]]]:
        shown = {**_leaves(like.full_observation_spec), **_leaves(like.full_done_spec)}
        return {
            ACTION: (like.action_spec.dtype, tuple(like.action_spec.shape)),
            BUSY: (torch.uint8, ()),
            **{(NEXT, *key): spec for key, spec in {**shown, **_leaves(like.full_reward_spec)}.items()},
            **{(ROOT, *key): spec for key, spec in shown.items()},
        }

    def _start(self, build: bytes, seeds: list[int], rows: Sequence[range], memory: SharedColumns, layout: Any) -> None:
        assert memory.file is not None
        try:
            for index, own in enumerate(rows):
                self._workers.append(WorkerProcess(index, len(rows), own, memory.columns[BUSY], memory.file))
            for worker in self._workers:
                own = worker.rows
                worker.start(Job(build, own, seeds[own.start : own.stop], layout, len(seeds)))
            self._wait(worker_process.SECONDS_TO_START)
        except BaseException as error:
            self._end_all()  # those that are there
            if isinstance(error, WorkerFailed):
                raise RunFailure(f"data.env_workers: {error}, at the start") from error
            raise
        self._reason = next(filter(None, self._ask("why_not_exact")), "")

    # ---- asking all workers -----------------------------------------------------------------------------------------

    def _ask(self, command: str, argument: Any = None) -> list[Any]:
        assert not self._under_way, "a step was begun: its answers come first"
        self._send(command, argument)
        return self._wait(worker_process.SECONDS_TO_ANSWER)

    def _send(self, command: str, argument: Any = None) -> None:
        if not self._workers:
            raise RuntimeError("these environments are closed")
        try:
            for worker in self._workers:
                worker.send(command, argument)
        except BaseException:
            self._end_all()
            raise

    def _wait(self, seconds: int) -> list[Any]:
        try:
            return worker_process.answers(self._workers, seconds)
        except BaseException:  # also Ctrl-C: an answer that comes later would be taken for that of the next command
            self._end_all()
            raise

    def _end_all(self) -> None:
        worker_process.kill(self._workers, os.getpid())
        self._workers.clear()

    # ---- steps ------------------------------------------------------------------------------------------------------

    def begin(self, tensordict: TensorDictBase) -> None:
        """Send the actions of a step; :meth:`step_and_maybe_reset`, to be given the same, waits for it."""
        assert not self._under_way, "a step was begun already"
        self._send("advance", self._hand_over(tensordict))
        self._under_way = True

    def step_and_maybe_reset(self, tensordict: TensorDictBase) -> tuple[TensorDictBase, TensorDictBase]:
        """Step all environments and reset those that ended, as TorchRL does it: with one message to each worker."""
        if not self._under_way:
            self.begin(tensordict)
        self._under_way = False
        self._wait(worker_process.SECONDS_TO_ANSWER)
        after = self._read(NEXT)
        carrier = TensorDict({key: after.get(key) for key in self._columns[ROOT]}, batch_size=self.batch_size)
        ended = after.get("done").reshape(*self._batch, -1).any(-1)
        if ended.any():  # else of the same tensors, as TorchRL's
            carrier = carrier.clone()
            carrier[ended] = TensorDict({k: c[ended] for k, c in self._columns[ROOT].items()}, [int(ended.sum())])
        self._carrier = carrier.set("action", tensordict["action"])  # TorchRL keeps it, until the next one is decided
        return tensordict.set("next", after), carrier

    def _hand_over(self, tensordict: TensorDictBase) -> bool:
        """Write the actions, and what the step is to start from unless the workers have it; return whether they did."""
        self._action.copy_(tensordict["action"])
        if tensordict is self._carrier:
            return False
        for key, column in self._columns[ROOT].items():
            column.copy_(tensordict[key])
        return True

    def _read(self, part: str) -> TensorDict:
        """Return copies: the memory is written into at the next step."""
        return TensorDict({key: column.clone() for key, column in self._columns[part].items()}, self.batch_size)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        self._ask("step", self._hand_over(tensordict))
        self._carrier = None
        return self._read(NEXT)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDict:
        asked = None if tensordict is None else tensordict.get("_reset", None)
        rows = range(self.batch_size.numel()) if asked is None else asked.view(-1).nonzero().flatten().tolist()
        self._ask("reset", list(rows))
        self._carrier = None
        return self._read(ROOT)

    def _set_seed(self, seed: int | None) -> None:
        self.set_seed(seed)

    def set_seed(self, seed: int | None = None, static_seed: bool = False) -> int | None:
        """Seed environment i with ``seed + i``, without a reset; ``static_seed`` gives all the same seed.

        Returns:
            The first seed not used yet, or None for None.
        """
        count = self.batch_size.numel()
        seeds = [None if seed is None else seed + (0 if static_seed else i) for i in range(count)]
        self._ask("seed", seeds)
        return None if seed is None else seed + (0 if static_seed else count)

    # ---- snapshots, see snapshots.py --------------------------------------------------------------------------------

    def why_not_exact(self) -> str:
        """Return what keeps the environments from being saved, or an empty string."""
        return self._reason

    def snapshots_of_all(self) -> list[dict[str, Any]]:
        """Return an exact snapshot of every environment; one in this process can load it, and the other way round."""
        return [state for own in self._ask("state") for state in own]

    def load_snapshots_of_all(self, states: Sequence[Any]) -> None:
        """Restore the snapshots of all environments, in their order."""
        assert not self._under_way, "a step was begun: its answers come first"
        try:
            for worker in self._workers:
                worker.send("load", states[worker.rows.start : worker.rows.stop])
        except BaseException:
            self._end_all()
            raise
        self._wait(worker_process.SECONDS_TO_ANSWER)
        self._carrier = None

    # ---- the end ----------------------------------------------------------------------------------------------------

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close the environments and end their processes; a step that was begun is lost. Twice is harmless."""
        if self._workers:
            if self._under_way:  # what it answers is not to be taken for the end
                self._under_way = False
                try:
                    self._wait(worker_process.SECONDS_TO_CLOSE)
                except (WorkerFailed, UserError):
                    return
            worker_process.end(self._workers)
            self._workers.clear()
        super().close(raise_if_closed=False)


def _leaves(spec: Any) -> dict[Key, tuple[torch.dtype, tuple[int, ...]]]:
    found = {}
    for key, leaf in spec.items(True, True):
        if not isinstance(leaf.dtype, torch.dtype):
            raise UserError(f"data.env_workers: the environment shows {key}, which is no tensor: leave it out")
        found[key if isinstance(key, tuple) else (key,)] = (leaf.dtype, tuple(leaf.shape))
    return found


def _sendable(build: Callable[..., EnvBase]) -> bytes:
    try:
        return cloudpickle.dumps(build)
    except Exception as error:  # TypeError, PicklingError, and whatever a __reduce__ raises
        raise UserError(
            f"data.env_workers: the factory data.env cannot be sent to another process ({describe_error(error)}): "
            "let it make all that it needs by itself, or leave out --data.env_workers"
        ) from error
