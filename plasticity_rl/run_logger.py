"""The TensorBoard logger of a run: nothing is on disk before the first point is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter


class LateWriter(SummaryWriter):
    """A SummaryWriter that opens its event file when something is written, not when it is made.

    The Trainer makes the writer before callbacks and data have had a chance to refuse the run.
    """

    def __init__(self, log_dir: str, **options: Any) -> None:
        self._constructed = False
        super().__init__(log_dir, **options)
        self._constructed = True

    def _get_file_writer(self) -> Any:
        return super()._get_file_writer() if self._constructed else None


class RunLogger(TensorBoardLogger):
    """Lightning's logger with a :class:`LateWriter`."""

    @property
    @rank_zero_experiment
    def experiment(self) -> SummaryWriter:
        """The writer, on rank 0."""
        if self._experiment is None:
            self._experiment = LateWriter(self.log_dir, **self._kwargs)
        return self._experiment


def run_logger(run_dir: str | Path) -> RunLogger:
    """Return a TensorBoard logger that writes into ``run_dir`` itself, and no ``hp_metric`` (a -1 at step 0)."""
    return RunLogger(str(run_dir), name="", version="", default_hp_metric=False)
