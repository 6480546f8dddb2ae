"""When two values of an option mean the same, however they are written."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plasticity_rl.files.places import expanded

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def same(old: Any, new: Any, folder: str) -> bool:
    """Whether two plain values mean the same: 1e-4 and 0.0001, lists and tuples, a path relative to another folder.

    Args:
        old: From a checkpoint.
        new: Of this run.
        folder: Where relative paths in ``old`` start.
    """
    if isinstance(old, list | tuple) and isinstance(new, list | tuple):
        return len(old) == len(new) and all(same(one, two, folder) for one, two in zip(old, new, strict=True))
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return old.keys() == new.keys() and all(same(old[name], new[name], folder) for name in old)
    if old == new:
        return True
    if not isinstance(old, str) and not isinstance(new, str):
        return False
    if old is None or new is None or isinstance(old, bool) or isinstance(new, bool):
        return False
    return _spelled(str(old)) == _spelled(str(new)) or absolute(str(old), folder) == absolute(str(new))


def _spelled(text: str) -> str:
    """Return a number, or a call such as ``linear(1,0.1,500_000)``, in one spelling."""
    text = text.replace(" ", "")
    is_call = "(" in text or _NUMBER.fullmatch(text)
    return _NUMBER.sub(lambda number: repr(float(number[0])), text) if is_call else text


def absolute(path: str | os.PathLike[str], folder: str | None = None) -> Path:
    """Return the one place that a path means, with ``~`` and ``$VARIABLES``.

    Args:
        path: As somebody wrote it.
        folder: Where relative ones start, or None for the current folder.
    """
    return Path(folder or os.getcwd(), expanded(str(path), "path")).resolve()
