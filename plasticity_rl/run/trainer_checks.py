"""What is refused about the options of a Trainer: what means something else here, and what Lightning refuses."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from plasticity_rl.agents.trainer_options import refuse_meaningless
from plasticity_rl.errors import UserError, at_least


def refuse_trainer_options(options: Mapping[str, Any]) -> None:
    """Raise UserError for options of the Trainer that mean something else here, or that it would take without a word.

    Args:
        options: Arguments of the Trainer by name; those that are left out have their defaults.
    """
    refuse_meaningless(options)
    if options.get("barebones"):
        raise UserError(
            "trainer.barebones=True measures raw speed without curves, checkpoints and bar, which are this run; leave "
            "it out"
        )
    folder = options.get("default_root_dir")
    if folder is not None and not str(folder).strip():
        raise UserError("trainer.default_root_dir='' names no folder; give one, or leave it out for a new one in runs/")
    interval = options.get("log_every_n_steps")
    if interval is not None:
        at_least("trainer.log_every_n_steps", interval, 1, " (env steps)")
    _refuse_places(options)


def _refuse_places(options: Mapping[str, Any]) -> None:
    num_nodes, devices = options.get("num_nodes", 1), options.get("devices", 1)
    if isinstance(num_nodes, int) and num_nodes > 1 and not _knows_first_node():
        raise UserError(
            f"trainer.num_nodes={num_nodes}, but nothing says where the first node is (no SLURM, no torchrun, "
            "no MASTER_ADDR), so it would wait: start it with torchrun or SLURM (docs/multi_gpu.md), or leave out "
            "--trainer.num_nodes"
        )
    if not _is_devices(devices):
        raise UserError(
            f"trainer.devices={devices} must be a number of devices >= 1, a list of GPUs such as [0, 1], or auto"
        )


def seconds_of_a_start(max_time: Any, options: Mapping[str, Any]) -> float | None:
    """Return the seconds that ``max_time`` stands for, or None for no end.

    Raises:
        UserError: When it is no time, or the run could not save its state then.
    """
    if max_time is None:
        return None
    try:
        seconds = Timer(max_time).time_remaining()
    except (MisconfigurationException, TypeError, AttributeError) as error:
        raise UserError(f"trainer.max_time={max_time!r} must be days:hours:minutes:seconds, 00:07:30:00") from error
    if not seconds or seconds <= 0:
        raise UserError(f"trainer.max_time={max_time} must be longer than 0 seconds")
    if options.get("enable_checkpointing") is False:
        raise UserError("trainer.max_time ends a start with a checkpoint: leave out trainer.enable_checkpointing")
    return seconds


def _knows_first_node() -> bool:
    """Whether a launcher, or the user, has set where the ranks of several machines meet."""
    return any(name in os.environ for name in ("MASTER_ADDR", "SLURM_NTASKS", "LSB_JOBID", "OMPI_COMM_WORLD_SIZE"))


def _is_devices(value: Any) -> bool:
    if isinstance(value, str):
        parts = value.split(",")
        return value in ("auto", "-1") or (all(part.strip().isdecimal() for part in parts) and value.strip() != "0")
    if isinstance(value, int):
        return value == -1 or value >= 1
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(i, int) and i >= 0 for i in value)


def trainer_error(error: Exception, options: Mapping[str, Any]) -> UserError:
    """Return what the Trainer refused as one line, with the options that it speaks of.

    Args:
        error: What its constructor raised.
        options: Arguments that it was given, by name.
    """
    text = first_line(error)
    if isinstance(error, KeyError):
        return UserError(f"trainer: {text} is missing among the environment variables that a launcher sets")
    if (accelerator := options.get("accelerator")) in ("gpu", "cuda", "mps", "tpu"):
        return UserError(
            f"trainer.accelerator={accelerator}: {text} Use --trainer.accelerator=cpu or auto; "
            "`plasticity-rl doctor` says what torch sees"
        )
    if "interactive environment" in text:
        return UserError(
            f"trainer.devices={options.get('devices', 'auto')}: several devices need a process each, which a notebook "
            "cannot start; train with devices=1, or put the same lines into a script and run that"
        )
    given = [f"--trainer.{name}={value}" for name, value in _named_in(text, options)]
    return UserError(f"trainer: {text}{' (given: ' + ', '.join(given) + ')' if given else ''}")


def _named_in(text: str, options: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in options.items():
        if isinstance(value, str | int | float) and not isinstance(value, bool) and name in text:
            yield name, value


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message, or the name of its class."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
