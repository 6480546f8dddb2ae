"""The one line with which a run ends that nobody asked to: what failed, the last good checkpoint, how to go on."""

from __future__ import annotations

import traceback

import lightning.pytorch as pl

from plasticity_rl.agents.base import RLModule
from plasticity_rl.agents.hooks import callbacks_of
from plasticity_rl.errors import RunFailure
from plasticity_rl.machine.failures import known_reason, what_failed
from plasticity_rl.run.ending import how_to_go_on
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
