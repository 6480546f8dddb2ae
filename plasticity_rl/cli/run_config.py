"""The configuration of a run as it is written down: in its folder, and in its checkpoints."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_only

from plasticity_rl.checkpoint_files import CONFIGURATION, CheckpointReader
from plasticity_rl.cli.early import CommandLine
from plasticity_rl.cli.parser import dumped
from plasticity_rl.errors import UserError
from plasticity_rl.files.credentials import holds_secret, without_secrets
from plasticity_rl.files.places import CONFIG_OF_A_RUN, OF_LATER_STARTS
from plasticity_rl.files.strict_yaml import load
from plasticity_rl.files.writing import replace_file

KEPT = ("agent", "seed_everything", "max_frames", "detect_nan", "data", "model")
"""Options that a checkpoint holds, besides what changes learning in ``trainer``."""


class SaveRunConfig(SaveConfigCallback):
    """Writes the resolved ``config.yaml`` into a new run folder; a resumed run keeps the old file and adds its own."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write nothing yet: other callbacks and the checkpoint may still refuse to start."""

    @rank_zero_only
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save once, on rank 0, when all was accepted and the folder is this run's (``RunFolder`` comes before)."""
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / CONFIG_OF_A_RUN
        if path.exists():
            path = folder / f"{OF_LATER_STARTS}{datetime.datetime.now():%Y%m%d-%H%M%S}.yaml"
        text = dumped(self.parser, self.config)
        replace_file(path, text, private=holds_secret(load(text)))  # loggers have keys, which a resumed run needs again

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put into the checkpoint what is needed to build the run again, should the file leave its folder."""
        checkpoint[CONFIGURATION] = configuration(load(dumped(self.parser, self.config)))


def configuration(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint holds of a run's configuration: all but where the run was, loggers, and secrets."""
    trainer = config.get("trainer") or {}
    kept = {name: trainer[name] for name in ("callbacks", "precision") if trainer.get(name) is not None}
    return without_secrets({**{name: config[name] for name in KEPT if name in config}, "trainer": kept})


def with_configuration(command: CommandLine, checkpoints: CheckpointReader) -> CommandLine:
    """Return a command with the configuration that its checkpoint holds, if that lies in no run or does not go on.

    Raises:
        UserError: When one that lies in no run holds none, and the command has to be told what to build.
    """
    path = command.alone or command.looked_at
    if path is None or not Path(path).is_file():
        return command  # the latter is said where the file is needed
    saved = checkpoints.look(path).get(CONFIGURATION)
    if saved:
        command.refuse_foreign(saved, path)
        return command.with_content(saved)
    if command.alone is not None and command.args[0] != "fit" and command.setting("data.task") is None:
        raise UserError(
            f"{command.alone} lies in no run folder (there is no config.yaml above it), and does not hold the "
            "configuration of its run itself, as those of the command line do since then: put it back into "
            "RUN/checkpoints/, or name the run's with --config RUN/config.yaml"
        )
    return command
