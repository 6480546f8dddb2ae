"""When checkpoints are written: at the very start, after every evaluation, and at every best return."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint

from plasticity_rl.callback import as_agent

AFTER_EVALUATION: dict[str, Any] = {
    "auto_insert_metric_name": False,
    "every_n_epochs": 1,  # an epoch ends with an evaluation
    "save_on_train_epoch_end": True,
    "enable_version_counter": False,
}


class LastCheckpoint(ModelCheckpoint):
    """Keeps ``last.ckpt``, the newest state, from frame 0 on: a run killed at any moment can go on.

    A callback of its own, because ``save_last`` of a checkpoint with a monitor follows new bests only.
    """

    def __init__(self) -> None:
        super().__init__(filename="last", **AFTER_EVALUATION)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the untrained agent of a new run."""
        super().on_train_start(trainer, pl_module)
        if as_agent(pl_module).env_frames == 0 and self.dirpath is not None and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(Path(self.dirpath) / "last.ckpt")


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint of the highest evaluation return, named after its env frame."""

    def __init__(self) -> None:
        super().__init__(filename="best_{env_frames:.0f}_frames", monitor="eval/return", mode="max", **AFTER_EVALUATION)
