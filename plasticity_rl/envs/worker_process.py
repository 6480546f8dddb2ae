"""A worker process as the run sees it: started, asked, waited for with a deadline, ended; what it does: ``worker.py``.

TorchRL's ``ParallelEnv`` was tried: see ``side_by_side.py``.
"""

from __future__ import annotations

import glob
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from plasticity_rl.errors import UserError, describe_error
from plasticity_rl.machine.health import available_cores
from plasticity_rl.machine.rendering import egl_device_of_worker

if TYPE_CHECKING:
    from torch import Tensor

    from plasticity_rl.envs.worker import Job

SECONDS_TO_START = 300
"""For the imports of a worker and its environments: 3 to 6 s on an idle machine."""
SECONDS_TO_ANSWER = 120
"""For one step, reset or snapshot of all environments of a worker: milliseconds, and for some resets a second."""
SECONDS_TO_CLOSE = 10
"""For closing environments and freeing what draws; who needs longer is killed."""
PROGRAM = """
import sys
sys.path[:] = {path!r}
from plasticity_rl.machine.parents import belong_to
belong_to({parent})
from plasticity_rl.envs.worker import serve
serve({pipe}, {memory})
"""
"""What a worker runs. Nothing of the user's script: it needs no ``if __name__ == "__main__"``, and is not run again."""


class WorkerFailed(RuntimeError):
    """A worker raised an error, ended, or gave no answer in time: the message says which environment that was."""


class _Traceback(Exception):
    """Shows the traceback of another process as the cause of an error of this one."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class WorkerProcess:
    """One worker process; it ends with this one, also when this one is killed.

    Args:
        index: Which worker.
        count: Of how many.
        rows: Numbers of its environments.
        busy: For every environment of all workers, whether it is being stepped: memory that workers write into.
        memory: Descriptor of the shared memory.
    """

    def __init__(self, index: int, count: int, rows: range, busy: Tensor, memory: int) -> None:
        self.rows, self._busy = rows, busy
        self._name = f"worker {index} of {count}"
        ours, theirs = socket.socketpair()
        with theirs:
            _give_up_after(ours, SECONDS_TO_ANSWER)
            pipe = theirs.fileno()
            program = PROGRAM.format(path=sys.path, parent=os.getpid(), pipe=pipe, memory=memory)
            self.process = subprocess.Popen(
                [sys.executable, "-c", program],
                env=_variables(index, count),
                stdin=subprocess.DEVNULL,
                pass_fds=(pipe, memory),
            )
        self.connection = Connection(ours.detach())
        self._answers = select.poll()  # quicker than the connection's own, which makes one at every call
        self._answers.register(self.connection.fileno(), select.POLLIN)

    # ---- commands and answers ---------------------------------------------------------------------------------------

    def start(self, job: Job) -> None:
        """Let it build its environments."""
        self.send("start", job)

    def send(self, command: str, argument: Any = None) -> None:
        """Send a command, to be answered.

        Raises:
            WorkerFailed: When nobody is there to take it.
        """
        try:
            self.connection.send_bytes(pickle.dumps((command, argument)))
        except OSError as error:
            raise self.failed(error) from error

    def has_answered(self, within_seconds: int) -> bool:
        """Wait for an answer, or for its end, without using the processor; return whether there is one."""
        return bool(self._answers.poll(1000 * within_seconds))

    def receive(self) -> Any:
        """Return its answer, which has arrived.

        Raises:
            UserError: For bad input that its environment found.
            WorkerFailed: When its environment raised another error, or the process has ended.
        """
        from plasticity_rl.envs.worker import Failed

        try:
            answer = pickle.loads(self.connection.recv_bytes())
        except (EOFError, OSError) as error:
            raise self.failed(error) from None
        if not isinstance(answer, Failed):
            return answer
        if answer.of_user is not None:
            raise UserError(answer.of_user) from _Traceback(answer.traceback)
        raise WorkerFailed(f"{answer.error}, in {self._where()}") from _Traceback(answer.traceback)

    def failed(self, error: BaseException) -> WorkerFailed:
        """Return what to raise for a pipe that fails: mostly because the process has ended, and how."""
        try:
            code = self.process.wait(SECONDS_TO_CLOSE)
        except subprocess.TimeoutExpired:
            return WorkerFailed(f"{self._where()} does not read its pipe any more ({describe_error(error)})")
        if code >= 0:
            return WorkerFailed(f"{self._where()} ended with exit code {code}")
        why = ", as the system does when memory runs out" if -code == signal.SIGKILL else ""
        return WorkerFailed(f"{self._where()} was ended by {signal.Signals(-code).name}{why}")

    def late(self, seconds: int) -> WorkerFailed:
        """Return what to raise when it gives no answer in time."""
        return WorkerFailed(
            f"{self._where()} gave no answer for {seconds} s; if it hangs in the drawing of several processes on one "
            "GPU, use fewer --data.env_workers, or MUJOCO_GL=osmesa"
        )

    def _where(self) -> str:
        """Return the environment that is being stepped, or those that it may be, and who steps it."""
        rows = [row for row in self.rows if self._busy[row]] or list(self.rows)
        which = f"environment {rows[0]}" if len(rows) == 1 else f"environments {rows[0]} to {rows[-1]}"
        return f"{which} ({self._name}, process {self.process.pid})"

    # ---- the end ----------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """End it at once, whatever it does."""
        self.process.kill()
        self.process.wait()
        self.connection.close()


def answers(workers: Sequence[WorkerProcess], seconds: int) -> list[Any]:
    """Wait for one answer of every worker, without using the processor.

    Args:
        workers: Whom a command was sent to.
        seconds: How long each may take. Time in which this process was stopped, by Ctrl-Z say, does not count.

    Returns:
        The answers in the order of the workers.

    Raises:
        UserError: For bad input that an environment found.
        WorkerFailed: When one raises an error, ends, or is late.
    """
    for worker in workers:
        waited = 0
        while not worker.has_answered(within_seconds=min(seconds, 1)):
            waited += 1
            if waited >= seconds:
                raise worker.late(seconds)
    return [worker.receive() for worker in workers]


def end(workers: Sequence[WorkerProcess]) -> None:
    """Let workers close their environments, and end those that do not in time."""
    try:
        for worker in workers:
            worker.send("close")
        answers(workers, SECONDS_TO_CLOSE)
        for worker in workers:
            worker.process.wait(SECONDS_TO_CLOSE)
    except (WorkerFailed, UserError, subprocess.TimeoutExpired):
        pass  # they are ended all the same
    finally:
        kill(workers, os.getpid())


def kill(workers: Sequence[WorkerProcess], owner: int) -> None:
    """End workers at once; a fork of the process ``owner`` that started them must not."""
    if os.getpid() == owner:
        for worker in workers:
            worker.kill()


def _variables(index: int, count: int) -> dict[str, str]:
    """Return the variables of a worker: one thread, its share of those that draw, and where there are several, a GPU.

    Mesa draws in software in as many threads as there are cores, for the same pixels; those of several workers would be
    in each other's way.
    """
    share = available_cores() // count
    variables = {"LP_NUM_THREADS": str(share if share > 1 else 0), **os.environ, "OMP_NUM_THREADS": "1"}
    device = egl_device_of_worker(index, len(glob.glob("/dev/nvidia[0-9]*")), variables)
    return variables if device is None else {**variables, "MUJOCO_EGL_DEVICE_ID": device}


def _give_up_after(pipe: socket.socket, seconds: int) -> None:
    """Let a message that is neither taken nor completed fail, instead of waiting for ever."""
    for way in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
        pipe.setsockopt(socket.SOL_SOCKET, way, struct.pack("ll", seconds, 0))
