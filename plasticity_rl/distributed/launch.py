"""Start the other ranks of a run on this machine, and end all of them when one fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from plasticity_rl.errors import UserError

MAIN_PROCESS = "PLASTICITY_RL_MAIN_PROCESS"
"""Environment variable of the processes that the first rank started: its process id."""
RUN_DIR = "PLASTICITY_RL_RUN_DIR"
"""Environment variable by which the first rank tells them the run folder that it chose."""
SECONDS_TO_FAIL = 10.0
"""How long the first rank may take to notice by itself that another one is gone; then it is ended too."""
CONNECTION_ERRORS = ("gloo", "connection closed by peer", "connection reset", "nccl", "broken pipe", "socket timeout")


_STARTED: list[subprocess.Popen] = []
_ENDING = threading.Event()  # the main thread has noticed, and says what there is to say


class RankLauncher(_SubprocessScriptLauncher):
    """Lightning's launcher (the same command once per device), with ranks that end together and in one piece.

    Lightning ends the main process by SIGKILL some seconds after another one failed, and leaves the others waiting when
    the main process fails or is killed.
    """

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        """Start the other processes if nobody else does, then run ``function``."""
        try:
            self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        except ValueError as error:
            raise UserError(f"trainer.devices: {error}") from error
        if not self.cluster_environment.creates_processes_externally:
            os.environ[MAIN_PROCESS] = str(os.getpid())
            # A rank that is ended leaves semaphores (of tqdm's lock) to Python's resource tracker, which would say so.
            filters = (os.environ.get("PYTHONWARNINGS"), "ignore:resource_tracker")
            os.environ["PYTHONWARNINGS"] = ",".join(filter(None, filters))
            self._call_children_scripts()
            _STARTED.extend(self.procs)
            threading.Thread(target=self._watch, daemon=True, name="ranks").start()
        elif os.environ.get(MAIN_PROCESS) == str(os.getpid()):
            self.procs = _STARTED  # a second Trainer of one program: the processes of the first are its ranks
        elif is_child():
            threading.Thread(target=_end_with_main_process, daemon=True, name="main process").start()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)

    def failed(self) -> str:
        """Return which of the started processes failed and how, or an empty string."""
        for rank, process in enumerate(self.procs, start=1):
            if code := process.poll():
                how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
                return f"rank {rank} ended {how}"
        return ""

    def end(self, *, wait: bool) -> str:
        """End the processes that this one started; return what :meth:`failed` does.

        Args:
            wait: Wait for one that is about to end by itself, with an error that explains the others'.
        """
        _ENDING.set()
        until = time.monotonic() + (SECONDS_TO_FAIL if wait and self.procs else 0.0)
        while not (failed := self.failed()) and time.monotonic() < until:
            time.sleep(0.05)
        for process in self.procs:
            if process.poll() is None:
                process.kill()  # SIGTERM is not obeyed inside a collective
                process.wait()
        return failed

    def _watch(self) -> None:
        while any(process.poll() is None for process in self.procs) and not self.failed():
            time.sleep(0.2)
        if not (failed := self.failed()):
            return
        if _ENDING.wait(SECONDS_TO_FAIL):  # as a rule: the main thread fails as well, and then ends this process
            time.sleep(6 * SECONDS_TO_FAIL)
        else:
            print(f"error: {failed}; all ranks end, and its own error stands above", file=sys.stderr, flush=True)
        self.end(wait=False)
        os._exit(2)


def _end_with_main_process() -> None:
    """End this process when the first rank is gone, also by SIGKILL: nobody else may write into the run folder."""
    while os.getppid() == int(os.environ[MAIN_PROCESS]):
        time.sleep(0.5)
    os._exit(1)


def is_child() -> bool:
    """Return whether the first rank of a run started this process."""
    return os.environ.get("LOCAL_RANK", "0") != "0" and MAIN_PROCESS in os.environ


def started_by_others() -> str:
    """Return the name of the launcher that started several processes of this run, or an empty string."""
    if "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        return "torchrun"
    return "srun" if "SLURM_PROCID" in os.environ and int(os.environ.get("SLURM_NTASKS", 1)) > 1 else ""


def same_run_dir(choose: Callable[[], Path], *, several: bool) -> Path:
    """Return the run folder of a run that names none: what ``choose`` returned on the first rank.

    Args:
        choose: Called on the first rank only.
        several: Whether there are several ranks.

    Raises:
        UserError: When another program started the ranks, so that the first cannot tell the others.
    """
    if is_child():
        return Path(os.environ[RUN_DIR])
    if several and (launcher := started_by_others()):
        raise UserError(
            f"{launcher} started this run's processes, and each would choose a run folder of its own: "
            "name one with --trainer.default_root_dir"
        )
    folder = choose()
    os.environ[RUN_DIR] = str(folder)
    return folder


def lost_connection(exception: BaseException) -> bool:
    """Return whether an error only says that another rank is gone."""
    if isinstance(exception, dist.DistError):
        return True
    text = str(exception).lower()
    return isinstance(exception, RuntimeError) and any(word in text for word in CONNECTION_ERRORS)
