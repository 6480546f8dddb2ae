"""The TensorBoard logger of a run: nothing is on disk before the first point is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from torch.utils.tensorboard import SummaryWriter

from plasticity_rl.files.writing import remove_link


class LateWriter(SummaryWriter):
    """A SummaryWriter that opens its event file when something is written, not when it is made.

    The Trainer makes the writer before callbacks and data have had a chance to refuse the run.

    Args:
        log_dir: Folder of the event file.
        on_open: Called when it has been opened.
        **options: Passed on to SummaryWriter.
    """

    def __init__(self, log_dir: str, on_open: Callable[[], None], **options: Any) -> None:
        self._constructed = False
        super().__init__(log_dir, **options)
        self._constructed, self._on_open = True, on_open

    def _get_file_writer(self) -> Any:
        if not self._constructed:
            return None
        opens = self.file_writer is None
        writer = super()._get_file_writer()
        if opens:
            self._on_open()
        return writer


class RunLogger(TensorBoardLogger):
    """Lightning's logger with a :class:`LateWriter`."""

    @property
    @rank_zero_experiment
    def experiment(self) -> SummaryWriter:
        """The writer, on rank 0."""
        if self._experiment is None:
            self._experiment = LateWriter(self.log_dir, self.save, **self._kwargs)
        return self._experiment

    @rank_zero_only
    def save(self) -> None:
        """Write ``hparams.yaml`` and flush, but not before the event file is open.

        The Trainer saves before it is known whether this run may have the folder.
        """
        if self._experiment is not None and self._experiment.file_writer is not None:
            remove_link(Path(self.log_dir) / self.NAME_HPARAMS_FILE)  # Lightning would write through it
            super().save()


def run_logger(run_dir: str | Path) -> RunLogger:
    """Return a TensorBoard logger that writes into ``run_dir`` itself, and no ``hp_metric`` (a -1 at step 0)."""
    return RunLogger(str(run_dir), name="", version="", default_hp_metric=False)


def note_going_on(writer: SummaryWriter, env_frames: int) -> None:
    """Note in the event file of a start that it goes on from a checkpoint.

    What the files before have beyond it is of a branch that was given up, and neither TensorBoard, whose own record
    this is, nor ``results/events.py`` shows it.

    Args:
        writer: Of this start.
        env_frames: Of the checkpoint; what was written there stays.
    """
    start = Event(step=env_frames + 1, session_log=SessionLog(status=SessionLog.START))  # that step, and all after it
    writer._get_file_writer().add_event(start)
