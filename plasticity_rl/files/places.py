"""What a path that a user wrote means, and the run that a checkpoint belongs to: one answer for everybody. Light."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TypeVar

from plasticity_rl.errors import UserError

UNSET = re.compile(r"\$([A-Za-z_]\w*|\{[^}]*\})")
MOST_LEVELS = 3
"""Folders between a run and a checkpoint of it: the name of its file may have slashes (``{eval/return}``)."""

CONFIG_OF_A_RUN, OF_LATER_STARTS = "config.yaml", "config_resumed_"
"""Name of the file that says what a run was started with, and how the names begin when it went on."""

Given = TypeVar("Given", str, Path)


def expanded(path: Given, option: str) -> Given:
    """Return a path with ``~`` and ``$VARIABLE`` written out, as a shell would.

    Args:
        path: As it was given.
        option: What it was given to, for the message.

    Raises:
        UserError: When it names a variable that is not set, or a user that there is not.
    """
    text = os.path.expandvars(os.path.expanduser(str(path)))
    if match := UNSET.search(text):
        raise UserError(f"{option}={path}: the environment variable {match[0]} is not set; set it, or write the path")
    if text.startswith("~") and not os.path.lexists(text):
        raise UserError(f"{option}={path}: there is no home folder {text.partition('/')[0]}; write the whole path")
    return type(path)(text)


def no_file(path: str | Path) -> str:
    """Say why a path is no file: a folder is there, or nothing."""
    return "is a folder" if Path(path).is_dir() else "no such file"


def configs_in(folder: Path) -> list[Path]:
    """Return the files that say with which options a run was trained, the first start first."""
    first = folder / CONFIG_OF_A_RUN
    return [*([first] if first.is_file() else []), *sorted(folder.glob(f"{OF_LATER_STARTS}*.yaml"))]


def run_folder_of(checkpoint: str | Path) -> Path | None:
    """Return the folder of the run that a checkpoint lies in, or None when it lies in none.

    That is the one above ``checkpoints/``, else the nearest one above with a ``config.yaml``.
    """
    above = Path(checkpoint).resolve().parents
    for folder in above[:MOST_LEVELS]:
        if folder.name == "checkpoints":
            return folder.parent
    return next((folder for folder in above[:MOST_LEVELS] if (folder / "config.yaml").is_file()), None)


def last_checkpoint_in(run_dir: Path) -> Path | None:
    """Return the newest checkpoint that a run saved to go on with, or None when its folder holds none."""
    found = (run_dir / "checkpoints").glob("last*.ckpt")
    return max(found, key=lambda path: path.stat().st_mtime, default=None)
