"""The file of ``--json``: refused before a command works for minutes, written whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from plasticity_rl.errors import UserError
from plasticity_rl.files.places import expanded
from plasticity_rl.files.writing import replace_file


def json_file(given: Path) -> Path:
    """Return the file that ``--json`` means.

    Raises:
        UserError: When it is a folder, or lies in none.
    """
    path = expanded(given, "--json")
    if not path.parent.is_dir():
        raise UserError(f"--json {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise UserError(f"--json {path} is a folder: name a file in it, such as {path / 'found.json'}")
    return path


def write_json(path: Path, content: Any) -> None:
    """Write what was found.

    Raises:
        UserError: When the file cannot be written.
    """
    try:
        replace_file(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(f"--json {path} cannot be written ({error.strerror})") from error
