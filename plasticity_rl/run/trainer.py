"""The Trainer as this framework needs it: stops on env frames, saves into one run folder, draws a bar over frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.callbacks.progress import ProgressBar
from lightning.pytorch.plugins.io import CheckpointIO

from plasticity_rl.agents.hook_checks import refuse_doubles
from plasticity_rl.checkpoint_files import AtomicCheckpointIO
from plasticity_rl.distributed.strategy import choose_strategy, refuse_other_strategy
from plasticity_rl.run.checkpoints import BestCheckpoint, LastCheckpoint
from plasticity_rl.run.folder import RunFolder
from plasticity_rl.run.logger import run_logger
from plasticity_rl.run.monitor import RunMonitor
from plasticity_rl.run.nan_guard import DetectNaN
from plasticity_rl.run.progress import FrameProgressBar
from plasticity_rl.run.video import EvalVideo

TRAINER_DEFAULTS: dict[str, Any] = {
    "max_epochs": -1,  # an epoch is the time between two evaluations; training stops on data.max_frames
    "num_sanity_val_steps": 0,
    "devices": 1,  # one GPU of several: more are a choice, since every rank has environments of its own
    "log_every_n_steps": 50,
    "enable_model_summary": False,
}


def run_callbacks(
    given: Sequence[pl.Callback], *, progress_bar: bool = True, checkpoints: bool = True, detect_nan: bool = True
) -> list[pl.Callback]:
    """Return ``given`` with what every run has and ``given`` does not replace.

    The run folder comes first, so that one that is taken is refused before any callback writes into it. Last: what
    TensorBoard shows beside curves, evaluation video, progress bar over frames, the check for NaN, and checkpoints,
    each written after an evaluation: ``last.ckpt`` always, the best by return unless ``given`` says what else to keep.
    """
    callbacks = list(given)
    refuse_doubles(callbacks)
    if not any(isinstance(callback, RunFolder) for callback in callbacks):
        callbacks.insert(0, RunFolder())
    if not any(isinstance(callback, RunMonitor) for callback in callbacks):
        callbacks.append(RunMonitor())
    if not any(isinstance(callback, EvalVideo) for callback in callbacks):
        callbacks.append(EvalVideo())
    if progress_bar and not any(isinstance(callback, ProgressBar) for callback in callbacks):
        callbacks.append(FrameProgressBar())
    if detect_nan and not any(isinstance(callback, DetectNaN) for callback in callbacks):
        callbacks.append(DetectNaN())
    if checkpoints and not any(isinstance(callback, ModelCheckpoint) for callback in callbacks):
        callbacks.append(BestCheckpoint())
    if checkpoints and not any(isinstance(callback, LastCheckpoint) for callback in callbacks):
        callbacks.append(LastCheckpoint())
    return callbacks


def place_checkpoints(callbacks: Sequence[pl.Callback], run_dir: Path) -> None:
    """Send checkpoints whose folder was not chosen to ``checkpoints/`` in the run folder."""
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = str(run_dir / "checkpoints")


def with_checkpoint_io(plugins: Any) -> list[Any]:
    """Return Lightning plugins, with the safe checkpoint files unless they have some already."""
    given = list(plugins) if isinstance(plugins, (list, tuple)) else [plugins] if plugins is not None else []
    return given if any(isinstance(plugin, CheckpointIO) for plugin in given) else [*given, AtomicCheckpointIO()]


def make_trainer(
    run_dir: str | Path, *, callbacks: Sequence[pl.Callback] = (), detect_nan: bool = True, **options: Any
) -> pl.Trainer:
    """Return a Trainer that writes everything into ``run_dir``.

    Args:
        run_dir: Run folder: ``checkpoints/``, TensorBoard events, ``videos/``, ``replay/``.
        callbacks: Interventions and probes, in any order, and any other Lightning callbacks.
        detect_nan: Whether a loss or weight that is NaN or infinite ends the run, before it is saved.
        **options: Passed on to ``lightning.Trainer``. With several ``devices`` the strategy is ``ddp_rl``.
    """
    run_dir = Path(run_dir)
    all_callbacks = run_callbacks(
        callbacks,
        progress_bar=options.get("enable_progress_bar") is not False,
        checkpoints=options.get("enable_checkpointing") is not False,
        detect_nan=detect_nan,
    )
    place_checkpoints(all_callbacks, run_dir)
    options = {"logger": run_logger(run_dir), **TRAINER_DEFAULTS, **options}
    options["plugins"] = with_checkpoint_io(options.get("plugins"))
    places = {name: options[name] for name in ("devices", "num_nodes", "accelerator") if name in options}
    options["strategy"] = choose_strategy(options.get("strategy", "auto"), **places)
    trainer = pl.Trainer(default_root_dir=run_dir, callbacks=all_callbacks, **options)
    refuse_other_strategy(trainer)
    return trainer
