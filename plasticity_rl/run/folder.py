"""What a run leaves behind: versions and git revision, and a summary at the end. Never overwrites another run."""

from __future__ import annotations

import datetime
import fcntl
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import lightning.pytorch as pl
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.agents.hooks import callbacks_of, in_order
from plasticity_rl.checkpoint_files import versions
from plasticity_rl.distributed.ranks import say
from plasticity_rl.errors import UserError, spelled
from plasticity_rl.files import own_files
from plasticity_rl.files.credentials import command_without_secrets
from plasticity_rl.files.writing import open_to_append, replace_file
from plasticity_rl.machine.capacity import rounded_bytes
from plasticity_rl.machine.failures import write_traceback
from plasticity_rl.machine.hardware import describe_hardware
from plasticity_rl.run.callback_checks import idle_run, idle_schedules, late_events
from plasticity_rl.run.ending import (
    FINISHED,
    AlreadyFinished,
    Stopwatch,
    last_block,
    stop_if_finished,
    table_of_episodes,
    table_of_returns,
    where_to_look,
)
from plasticity_rl.run.progress import FrameProgressBar


def refuse_unwritable(folder: Path, what: str, option: str) -> None:
    """Raise UserError when nothing can be written at ``folder``, which need not exist and is not made.

    Args:
        folder: Where something is to be written.
        what: What it is, for the message.
        option: Option that names another.
    """
    here = folder.absolute()
    try:
        with tempfile.TemporaryFile(dir=next(path for path in (here, *here.parents) if path.exists())):
            pass
    except OSError as error:
        raise UserError(
            f"{what} {folder} cannot be written ({error.strerror}): choose another with {option}"
        ) from error


def refuse_other_run(run_dir: Path, *, resuming: bool) -> None:
    """Raise UserError when ``run_dir`` cannot be written, or holds a run that this one would overwrite."""
    refuse_unwritable(run_dir, "the run folder", "--trainer.default_root_dir")
    if not resuming and any((run_dir / name).exists() for name in ("checkpoints", "replay", "starts.yaml")):
        raise already_holds_a_run(run_dir)


def already_holds_a_run(run_dir: Path) -> UserError:
    """Return what is said about a run folder that a new run may not have."""
    return UserError(
        f"the run folder {run_dir} already holds a run: continue it with --ckpt_path last, "
        "or choose another with --trainer.default_root_dir"
    )


def requeued_checkpoint(run_dir: Path) -> str | None:
    """Return the newest checkpoint of a run that SLURM has requeued and starts again with the same command, or None.

    Lightning by itself would take ``hpc_ckpt_<n>.ckpt``, also when the run got further afterwards.
    """
    requeued = list(run_dir.glob("hpc_ckpt_*.ckpt"))
    if not requeued or not SLURMEnvironment.detect():
        return None
    saved = [*requeued, *run_dir.glob("checkpoints/last.ckpt")]
    return str(max(saved, key=lambda path: path.stat().st_mtime_ns))


def git_revision(folder: Path) -> str:
    """Return the commit of the checkout that ``folder`` belongs to, with ``+changes`` if files differ; or ``unknown``.

    An installed package may lie in a folder that somebody else's repository ignores, a ``.venv`` say: unknown too.
    """

    def git(*args: str) -> str:
        return subprocess.run(["git", "-C", str(folder), *args], capture_output=True, text=True, check=True).stdout

    try:
        git("ls-files", "--error-unmatch", ".")
        return git("rev-parse", "HEAD").strip() + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def describe_start(agent: RLModule) -> dict[str, object]:
    """Return what is needed to repeat this start: command, versions, git revision, machine; and what is other now."""
    changes = [f"{change['option']}: {change['effect']}" for change in agent.changes_of_this_start]
    return {
        "started": _now(),
        "at_env_frames": agent.env_frames,
        **({"init_weights": agent.weights_from} if agent.weights_from is not None else {}),
        **({"changed": changes} if changes else {}),
        **({"not_exact": agent.data.inexact} if agent.data.inexact else {}),
        **({"own_files": own_files.latest()} if own_files.latest() else {}),
        "command": command_without_secrets(sys.argv),
        "git_revision": git_revision(Path(__file__).parent),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hardware": describe_hardware(),
        "mujoco_gl": os.environ.get("MUJOCO_GL", ""),
        "versions": dict(versions()),
    }


def claim(starts: Path) -> IO[str]:
    """Open the list of a run's starts to append to it, and lock it: a folder belongs to one process at a time.

    The system gives the lock back when the file is closed or the process ends, however that happens.

    Raises:
        UserError: When another process holds it.
    """
    file = open_to_append(starts)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise UserError(
            f"another process is training in the run folder {starts.parent}: stop it first, "
            "or choose another folder with --trainer.default_root_dir"
        ) from error
    except OSError:  # a network file system without locks
        pass
    return file


WHERE_IT_LIES = {
    "ram": "memory, and as much on disk",
    "memmap": "disk",
    "device": "the memory of the device, and as much on disk",
}
"""What a full replay takes, by ``data.storage``."""


class RunFolder(pl.Callback):
    """Appends every start of a run to ``starts.yaml``, and prints where to look, and a summary at the end."""

    _started = False
    _claimed: IO[str] | None = None
    _stopwatch: Stopwatch | None = None
    """Of a start whose last block is still to be printed."""
    error: BaseException | None = None
    """What ended training, before anything that failed on the way out."""
    error_file: Path | None = None
    """Where its traceback is."""

    @rank_zero_only
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a folder in which another process is training, before anything in it is touched."""
        starts = Path(trainer.default_root_dir) / "starts.yaml"
        if stage == "fit" and starts.exists() and os.access(starts, os.W_OK):
            self._claimed = claim(starts)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse a folder that holds another run; leave one alone that has come to its end."""
        agent, run_dir = as_agent(pl_module), Path(trainer.default_root_dir)
        if trainer.ckpt_path is not None:
            try:
                stop_if_finished(run_dir, agent.env_frames, agent.data.max_frames)
            except AlreadyFinished as finished:
                say(str(finished))
                raise
        if trainer.is_global_zero:
            refuse_other_run(Path(trainer.default_root_dir), resuming=trainer.ckpt_path is not None)

    @rank_zero_only
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note this start, once nobody has refused it."""
        run_dir = Path(trainer.default_root_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        resumed = self._claimed is not None
        self._claimed = self._claimed or claim(run_dir / "starts.yaml")
        if not resumed and self._claimed.tell() > 0:  # another run came and went since on_fit_start
            raise already_holds_a_run(run_dir)
        self._claimed.write(OmegaConf.to_yaml(OmegaConf.create([describe_start(as_agent(pl_module))])))
        self._claimed.flush()
        self._started = True
        callbacks, agent = callbacks_of(trainer), as_agent(pl_module)
        data = agent.data
        notes = late_events(callbacks, data.max_frames, data.frames_per_step)
        notes += [note for note in (data.inexact, data.crowded(trainer.num_devices)) if note]
        notes += idle_run(callbacks, data.max_frames, agent.num_seed_frames) + idle_schedules(callbacks, agent)
        for note in [*notes, *(n for c in in_order(callbacks) for n in c.notes(agent))]:
            print(f"warning: {spelled(note)}", file=sys.stderr)
        self._stopwatch = Stopwatch(agent.env_frames)
        _print(where_to_look(trainer))
        where = WHERE_IT_LIES[data.storage]
        print(f"Replay:      {rounded_bytes(data.replay_size_bytes)}{data.times_ranks} of {where} once it is full")

    @rank_zero_only
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Keep the traceback of a run that failed: the command line prints a single line. Of a stopped one, sum up."""
        self._release()
        if isinstance(exception, SystemExit | KeyboardInterrupt):
            self._print_last_block(trainer, finished=False)
        self._stopwatch = None
        if isinstance(exception, Exception) and not isinstance(exception, UserError) and self._started:
            self.error = exception
            self.error_file = write_traceback(exception, Path(trainer.default_root_dir) / "error.txt")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let others have the folder; sum up a start whose time was up."""
        self._release()
        self._print_last_block(trainer, finished=False)

    def _release(self) -> None:
        if self._claimed is not None:
            self._claimed.close()
            self._claimed = None

    @rank_zero_only
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note how far the run came, and sum it up."""
        agent = as_agent(pl_module)
        end = {"env_frames": agent.env_frames, "num_updates": agent.num_updates, "finished": _now()}
        replace_file(Path(trainer.default_root_dir) / FINISHED, OmegaConf.to_yaml(OmegaConf.create(end)))
        self._print_last_block(trainer, finished=True)

    def _print_last_block(self, trainer: pl.Trainer, *, finished: bool) -> None:
        if self._stopwatch is None:
            return
        bar = trainer.progress_bar_callback
        if isinstance(bar, FrameProgressBar):
            bar.close()  # its own turn comes after this one
        _print(["", *last_block(trainer, self._stopwatch, finished=finished)])
        self._stopwatch = None

    @rank_zero_only
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the result of ``validate``."""
        if trainer.state.fn != TrainerFn.VALIDATING:
            return
        agent = as_agent(pl_module)
        checkpoint = f" of {trainer.ckpt_path}" if trainer.ckpt_path else ""
        title = f"Evaluation at frame {agent.env_frames:,}{checkpoint}"
        _print([title, *table_of_returns(agent.played_by_task), "", *table_of_episodes(agent.played_by_task)])


def _print(lines: Iterable[str]) -> None:
    print("\n".join(lines), flush=True)
