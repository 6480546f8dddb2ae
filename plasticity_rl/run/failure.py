"""The one line with which a run ends that nobody asked to: what failed, the last good checkpoint, how to go on."""

from __future__ import annotations

import shlex
import traceback
from pathlib import Path

import lightning.pytorch as pl

from plasticity_rl.agents.base import RLModule
from plasticity_rl.agents.hooks import callbacks_of
from plasticity_rl.checkpoint_files import LAST_CHECKPOINT
from plasticity_rl.errors import RunFailure
from plasticity_rl.files.places import CONFIG_OF_A_RUN, configs_in
from plasticity_rl.machine.failures import known_reason, what_failed
from plasticity_rl.replay.files import holds_replay
from plasticity_rl.run.folder import RunFolder


def run_failure(error: BaseException, trainer: pl.Trainer) -> RunFailure:
    """Return what the command line says about an error that ended training.

    Args:
        error: What came out of ``trainer.fit``: the error itself, or one from the way out, where a logger finds the
            same disk full.
        trainer: Whose training ended.

    Returns:
        One line. The traceback is in ``error.txt``; where that could not be written and the line does not explain the
        error, it was printed on stderr.
    """
    folder = next((one for one in callbacks_of(trainer) if isinstance(one, RunFolder)), None)
    first = folder.error if folder is not None and folder.error is not None else error
    parts = [what_failed(first)]
    agent = trainer.lightning_module
    if isinstance(agent, RLModule) and "; the last checkpoint is" not in parts[0]:
        parts[0] += f" {agent.where_it_stands()}"
    if command := how_to_go_on(trainer):
        parts.append(f"the command: {command}")
    if folder is not None and folder.error_file is not None:
        parts.append(f"traceback: {folder.error_file}")
    elif known_reason(first) is None:
        traceback.print_exception(first)
    return RunFailure("; ".join(parts))


def how_to_go_on(trainer: pl.Trainer) -> str:
    """Return the command that continues a run of the command line, or nothing where there is no checkpoint."""
    run_dir = Path(trainer.default_root_dir)
    last = run_dir / "checkpoints" / LAST_CHECKPOINT
    if not last.is_file() or not (run_dir / CONFIG_OF_A_RUN).is_file():
        return ""
    _, *resumed = configs_in(run_dir)
    command = ["plasticity-rl", "fit", *(f"--config={path}" for path in resumed[-1:]), f"--ckpt_path={last}"]
    replay = getattr(trainer.datamodule, "replay_folder", None)  # type: ignore[attr-defined]
    if replay is not None and not holds_replay(replay):
        command.append("--data.allow_empty_replay=true")
    return shlex.join(command)
