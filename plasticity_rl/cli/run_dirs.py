"""Which folder a command means, and which checkpoint in it, where it names none."""

from __future__ import annotations

import datetime
import importlib
import itertools
import re
from pathlib import Path
from typing import Any

from plasticity_rl.callback import Intervention
from plasticity_rl.cli.checks import as_seed
from plasticity_rl.errors import UserError
from plasticity_rl.files.places import last_checkpoint_in, run_folder_of
from plasticity_rl.run.description import short_name

RUNS = Path("runs")
"""Where runs go that name no folder: ``runs/<task>_<interventions>_seed<seed>_<date>-<time>``."""


def default_run_dir(config: Any, *, make: bool) -> Path:
    """Return the folder of a run that names none: a new one, or with ``--ckpt_path`` that of the checkpoint.

    Args:
        config: The parsed command.
        make: Whether a new one is made, so that it is nobody else's.
    """
    name = short_name([(cls, given) for cls, given in callbacks_in(config) if issubclass(cls, Intervention)])
    task = re.sub(r"[^\w.-]+", "-", config.data.task)  # gym:Pendulum-v1 has a colon, others have slashes
    prefix = f"{task}_{name + '_' if name else ''}seed{as_seed(config.seed_everything)}_"
    if config.ckpt_path == "last":
        candidates = sorted(RUNS.glob(f"{prefix}*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
        if not candidates:
            raise UserError(
                f"--ckpt_path last: no run called {RUNS / prefix}* has a checkpoint; "
                "name the run's folder with --trainer.default_root_dir"
            )
        return candidates[-1].parent.parent
    if config.ckpt_path is not None and (run_dir := run_folder_of(config.ckpt_path)) is not None:
        return run_dir
    path = RUNS / f"{prefix}{datetime.datetime.now():%Y%m%d-%H%M%S}"
    return make_new(path) if make else path


def make_new(path: Path) -> Path:
    """Make a folder that nobody has, of that name or with a number behind it: another run may start in this second.

    One that cannot be made is returned as it is; whoever writes there says why not.
    """
    for number in itertools.count(1):
        new = path if number == 1 else path.with_name(f"{path.name}_{number}")
        try:
            new.parent.mkdir(parents=True, exist_ok=True)
            new.mkdir()
        except FileExistsError:
            if not new.exists():  # what should be a folder above it is a file
                return path
            continue
        except OSError:
            return path
        return new
    raise AssertionError


def last_checkpoint(run_dir: Path) -> Path:
    """Return the file that ``--ckpt_path last`` means, the newest one.

    Raises:
        UserError: When a run folder holds none.
    """
    found = last_checkpoint_in(run_dir)
    if found is None:
        raise UserError(f"--ckpt_path last: no checkpoint in {run_dir}; name the run with --trainer.default_root_dir")
    return found


def callbacks_in(config: Any) -> list[tuple[type, dict[str, Any]]]:
    """Return class and arguments of the callbacks in a parsed config; their paths were checked by the parser."""
    entries = config.trainer.callbacks or []
    found = []
    for entry in entries if isinstance(entries, list) else [entries]:
        module, _, name = entry.class_path.rpartition(".")
        found.append((getattr(importlib.import_module(module), name), dict((entry.get("init_args") or {}).items())))
    return found
