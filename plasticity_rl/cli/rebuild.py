"""Agent, data and callbacks of a command or of a run's configuration, built as for training and not run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import lightning.pytorch as pl

from plasticity_rl.agents.base import RLModule
from plasticity_rl.agents.hooks import callbacks_of
from plasticity_rl.checkpoint_files import CheckpointReader
from plasticity_rl.cli.app import RLCLI, build
from plasticity_rl.cli.early import read
from plasticity_rl.cli.trust import OPTION
from plasticity_rl.data.module import RLDataModule
from plasticity_rl.files.places import run_folder_of


class _WithoutRunning(RLCLI):
    """Parses and builds, and leaves the rest to the caller."""

    writes = False

    def _claim_folder(self, run_dir: Path) -> None:
        """Nothing is going to be written."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class RestoredRun:
    """Agent, data and callbacks as a run's configuration describes them; nothing is loaded yet."""

    run_dir: Path
    agent: RLModule
    data: RLDataModule
    callbacks: list[pl.Callback]


def build_only(args: Sequence[str], checkpoints: CheckpointReader | None = None) -> RestoredRun:
    """Build what a command describes, without running it; writes nothing.

    Args:
        args: The command, the subcommand first.
        checkpoints: By which a checkpoint that the command names is read, and kept for whoever loads it.

    Raises:
        UserError: When the input is wrong.
    """
    cli = build(_WithoutRunning, read(args), checkpoints)
    callbacks = list(callbacks_of(cli.trainer))
    return RestoredRun(Path(cli.trainer.default_root_dir), cli.model, cli.datamodule, callbacks)


def restore_only(checkpoint: Path, checkpoints: CheckpointReader | None = None, *, trusts: bool = False) -> RestoredRun:
    """Build what the run of a checkpoint was made of, as ``validate`` does, without running it.

    That says the checkpoint itself: a run may have begun with other options. Of one that holds no configuration, since
    a program wrote it, the ``config.yaml`` of the run says it.

    Args:
        checkpoint: Its file.
        checkpoints: By which it is read, and kept for whoever loads it.
        trusts: Whether classes of other packages may be built that these files name.

    Raises:
        UserError: When the file says nothing about its run, or names classes of other packages, or is broken.
    """
    run_dir = run_folder_of(checkpoint) or checkpoint.resolve().parent
    args = ["validate", f"--ckpt_path={checkpoint}", *([OPTION] if trusts else [])]
    return replace(build_only(args, checkpoints), run_dir=run_dir)
