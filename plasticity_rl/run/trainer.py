"""The Trainer as this framework needs it: stops on env frames, saves into one run folder, draws a bar over frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.callbacks.progress import ProgressBar
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from plasticity_rl.agents.hook_checks import refuse_doubles
from plasticity_rl.agents.hooks import RLCallback
from plasticity_rl.checkpoint_files import AtomicCheckpointIO, CheckpointReader
from plasticity_rl.distributed.ranks import be_first_when_alone
from plasticity_rl.distributed.strategy import choose_strategy, refuse_other_strategy
from plasticity_rl.errors import UserError
from plasticity_rl.files.places import expanded
from plasticity_rl.run.callback_checks import refuse_bad_lists, refuse_no_callbacks, refuse_unsuitable
from plasticity_rl.run.checkpoints import BestCheckpoint, LastCheckpoint
from plasticity_rl.run.folder import RunFolder
from plasticity_rl.run.logger import run_logger
from plasticity_rl.run.monitor import RunMonitor
from plasticity_rl.run.nan_guard import DetectNaN
from plasticity_rl.run.number_checks import refuse_extreme_numbers
from plasticity_rl.run.progress import FrameProgressBar
from plasticity_rl.run.trainer_checks import refuse_trainer_options, seconds_of_a_start, trainer_error
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


def with_checkpoint_io(plugins: Any, reader: CheckpointReader | None = None) -> list[Any]:
    """Return Lightning plugins, with the safe checkpoint files unless they have some already.

    Args:
        plugins: None, one or several.
        reader: What may have read the checkpoint already.
    """
    given = as_list(plugins)
    if not any(isinstance(plugin, CheckpointIO) for plugin in given):
        return [*given, AtomicCheckpointIO(reader)]
    if reader is not None:
        reader.forget()  # nobody would take it
    return given


def as_list(given: Any) -> list[Any]:
    """Return what Lightning takes as None, one or several as a list."""
    return list(given) if isinstance(given, (list, tuple)) else [] if given is None else [given]


def refuse_callbacks(callbacks: Sequence[pl.Callback]) -> None:
    """Raise UserError for callbacks that cannot work in any run."""
    refuse_no_callbacks(callbacks)
    arguments = {type(one).__name__: dict(one.arguments()) for one in callbacks if isinstance(one, RLCallback)}
    refuse_extreme_numbers(arguments)
    refuse_doubles(callbacks)
    refuse_bad_lists(callbacks)
    refuse_unsuitable(callbacks)


def make_trainer(
    run_dir: str | Path,
    *,
    callbacks: Sequence[pl.Callback] | pl.Callback | None = (),
    detect_nan: bool = True,
    **options: Any,
) -> pl.Trainer:
    """Return a Trainer that writes everything into ``run_dir``: the one of the command line too.

    Args:
        run_dir: Run folder: ``checkpoints/``, TensorBoard events, ``videos/``, ``replay/``.
        callbacks: Interventions and probes, in any order, and any other Lightning callbacks.
        detect_nan: Whether a loss or weight that is NaN or infinite ends the run, before it is saved.
        **options: Passed on to ``lightning.Trainer``. With several ``devices`` the strategy is ``ddp_rl``; ``max_time``
            is the time of one start and not of all together: the run saves, and ``fit`` returns.

    Raises:
        UserError: For options and callbacks that mean something else here, or that Lightning refuses.
    """
    refuse_extreme_numbers(
        {"trainer": {name: value for name, value in options.items() if isinstance(value, int | float)}}
    )
    refuse_trainer_options({"default_root_dir": run_dir, **TRAINER_DEFAULTS, **options})
    max_seconds = seconds_of_a_start(options.pop("max_time", None), options)
    given, run_dir = as_list(callbacks), expanded(Path(run_dir), "trainer.default_root_dir")
    refuse_callbacks(given)
    all_callbacks = run_callbacks(
        given,
        progress_bar=options.get("enable_progress_bar") is not False,
        checkpoints=options.get("enable_checkpointing") is not False,
        detect_nan=detect_nan,
    )
    for callback in all_callbacks:
        if isinstance(callback, LastCheckpoint):
            callback.max_seconds = max_seconds
    place_checkpoints(all_callbacks, run_dir)
    options = {**TRAINER_DEFAULTS, **options, "plugins": with_checkpoint_io(options.get("plugins"))}
    if options.get("logger") in (None, True):
        options["logger"] = run_logger(run_dir)
    places = {name: options[name] for name in ("devices", "num_nodes", "accelerator") if name in options}
    options["strategy"] = choose_strategy(options.get("strategy", "auto"), **places)
    try:
        trainer = pl.Trainer(default_root_dir=run_dir, callbacks=all_callbacks, **options)
    except UserError:
        raise
    except (ValueError, TypeError, ImportError, RuntimeError, KeyError, MisconfigurationException) as error:
        raise trainer_error(error, options) from error
    be_first_when_alone(trainer)
    refuse_other_strategy(trainer)
    return trainer
