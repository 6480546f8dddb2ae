"""When checkpoints are written: at the start, after every evaluation, at best returns, and when asked to stop."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from plasticity_rl.agents.base import as_agent
from plasticity_rl.agents.options import RECORD
from plasticity_rl.checkpoint_files import LAST_CHECKPOINT, replace_durably
from plasticity_rl.run.stop_signals import TIME_IS_UP, StopRun, StopSignals, TimeIsUp, stopped

AFTER_EVALUATION: dict[str, Any] = {
    "auto_insert_metric_name": False,
    "every_n_epochs": 1,  # an epoch ends with an evaluation
    "save_on_train_epoch_end": True,
    "enable_version_counter": False,
}
INSIDE_FIRST_EPISODE = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
"""Lightning's progress of an evaluation whose first episode is being played: it resumes with that episode."""

TICKS_OF_EPOCH = "ticks_of_epoch"
"""In a checkpoint of a run that was stopped in an evaluation: Lightning's progress of the epoch before it."""


class LastCheckpoint(ModelCheckpoint):
    """Keeps ``last.ckpt``, the newest state, from frame 0 on: a run killed at any moment can go on.

    A callback of its own, because ``save_last`` of a checkpoint with a monitor follows new bests only, and because
    Lightning skips a save while no optimizer has stepped, as in the seed phase. Asked to stop (Ctrl-C, SIGTERM, a
    requeue by SLURM), or when its time is up, it also saves between two ticks, or between two episodes of an
    evaluation, which the resumed run then plays again from its first episode.

    Attributes:
        max_seconds: Time of one start, from ``fit`` on; None has no end.
    """

    def __init__(self) -> None:
        super().__init__(filename="last", **AFTER_EVALUATION)
        self.max_seconds: float | None = None
        self._signals = StopSignals()
        self._stops_in_evaluation = False
        self._ticks: dict[str, Any] | None = None

    @property
    def path(self) -> Path:
        """Where it saves."""
        assert self.dirpath is not None
        return Path(self.dirpath) / LAST_CHECKPOINT

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin to count the time."""
        super().setup(trainer, pl_module, stage)
        self._signals.deadline = math.inf if self.max_seconds is None else time.monotonic() + self.max_seconds

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to signals from now on, and save the untrained agent of a new run."""
        self._signals.install(trainer)
        super().on_train_start(trainer, pl_module)
        if as_agent(pl_module).env_frames == 0:
            self._save(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Stop here if asked to, unless an evaluation follows: Lightning would leave it out when resuming."""
        if not trainer.is_last_batch and not trainer.should_stop:
            self.stop_if_asked(trainer)

    def on_validation_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Stop before the next episode if asked to."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._stops_in_evaluation = True
            try:
                self.stop_if_asked(trainer)
            finally:
                self._stops_in_evaluation = False

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save after the evaluation, in the seed phase too."""
        self._save(trainer)
        self.stop_if_asked(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note that the evaluation which is being stopped has to be played again, before any tick.

        The last epoch of a run has fewer ticks than others, which Lightning would make up for: it is told that they
        were made, until the evaluation is over.
        """
        if self._stops_in_evaluation:
            loops = checkpoint["loops"]["fit_loop"]
            progress = {"total": INSIDE_FIRST_EPISODE, "current": INSIDE_FIRST_EPISODE, "is_last_batch": False}
            loops["epoch_loop.val_loop.batch_progress"] = progress
            ticks = self._ticks or loops["epoch_loop.batch_progress"]  # stopped once more: Lightning's are made up
            checkpoint[TICKS_OF_EPOCH] = ticks
            whole = dict.fromkeys(ticks["current"], trainer.num_training_batches)
            loops["epoch_loop.batch_progress"] = {**ticks, "current": whole, "is_last_batch": True}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember how many ticks there were, and let all checkpoints be found where the run folder is now."""
        self._ticks = checkpoint.get(TICKS_OF_EPOCH)
        follow_folder(trainer, self, checkpoint)  # before any callback is given its state

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell Lightning how many there were; a run that goes on after them, for it is longer now, begins an epoch."""
        super().on_validation_end(trainer, pl_module)
        if self._ticks is not None:
            agent, progress = as_agent(pl_module), trainer.fit_loop.epoch_loop.batch_progress
            progress.load_state_dict(self._ticks)
            progress.is_last_batch |= agent.env_frames < agent.data.max_frames
            self._ticks = None

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the signals back."""
        self._signals.restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._signals.restore()

    def _save(self, trainer: pl.Trainer) -> None:
        self.best_model_path = str(self.path)  # what Lightning calls the file of a checkpoint without a monitor
        trainer.save_checkpoint(self.path, weights_only=False)  # None is reported at every save

    @contextlib.contextmanager
    def _copied_instead(self, trainer: pl.Trainer) -> Iterator[None]:
        """Let what Lightning saves before it requeues be the checkpoint before."""

        def copy(path: Any, *args: Any, **kwargs: Any) -> None:
            if trainer.is_global_zero:
                replace_durably(Path(path), self.path.read_bytes())

        trainer.save_checkpoint = copy  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            del trainer.save_checkpoint

    def stop_if_asked(self, trainer: pl.Trainer, *, save: bool = True) -> None:
        """Stop here if asked to; without ``save`` the run goes on from the checkpoint before."""
        signum = self._signals.agreed(trainer)
        if not signum:
            return
        if save:
            self._save(trainer)
        agent = as_agent(trainer.lightning_module)
        if signum == TIME_IS_UP:
            self._signals.restore()
            agent.print(stopped(f"after max_time ({self.max_seconds:g} seconds of this start)", agent))
            raise TimeIsUp
        with contextlib.nullcontext() if save else self._copied_instead(trainer):
            self._signals.requeue(signum)
        agent.print(stopped(f"by {signal.Signals(signum).name}", agent))
        raise StopRun(signum)


def follow_folder(trainer: pl.Trainer, last: LastCheckpoint, checkpoint: Mapping[str, Any]) -> None:
    """Give callbacks that keep checkpoints in the run folder their paths as they are in this start.

    Lightning takes another spelling of a folder for another folder, and then forgets the best checkpoints: of a run
    that was started with a relative path, and of one that was moved or copied.

    Args:
        trainer: Of the run that goes on.
        last: Its callback that saves into the run folder.
        checkpoint: Edited in place.
    """
    states, started_in = checkpoint["callbacks"], str(checkpoint.get(RECORD, {}).get("folder", ""))

    def before(path: str) -> str:
        return os.path.realpath(os.path.join(started_in, path))  # relative paths start where that start did

    if not (former := states.get(last.state_key, {}).get("dirpath")):
        return
    run_before, run_now = os.path.dirname(before(former)), os.path.dirname(os.path.realpath(last.path.parent))
    for callback in trainer.checkpoint_callbacks:
        state = states.get(callback.state_key, {})
        if not isinstance(callback, ModelCheckpoint) or not state.get("dirpath"):
            continue
        folder, folder_now = before(state["dirpath"]), str(callback.dirpath)
        if os.path.relpath(folder, run_before) != os.path.relpath(os.path.realpath(folder_now), run_now):
            continue  # outside of the run folder, or elsewhere in it: Lightning begins anew, and says so

        def now(path: str, folder: str = folder, folder_now: str = folder_now) -> str:
            return os.path.join(folder_now, os.path.relpath(before(path), folder)) if path else path

        state["dirpath"] = folder_now
        for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
            state[name] = now(state.get(name, ""))
        state["best_k_models"] = {now(path): value for path, value in state.get("best_k_models", {}).items()}


def stop_inside_of_a_hook(trainer: pl.Trainer) -> None:
    """Stop if the run was asked to, where its state is not whole, so that nothing is saved."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, LastCheckpoint):
            callback.stop_if_asked(trainer, save=False)
    if trainer.received_sigterm:  # Lightning's own, in a run without that callback
        raise SIGTERMException


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint of the highest evaluation return, named after its env frame."""

    def __init__(self) -> None:
        super().__init__(filename="best_{env_frames:.0f}_frames", monitor="eval/return", mode="max", **AFTER_EVALUATION)
