"""One ``study run`` at a time in a folder: a lock that the system gives back however its holder ends. Light."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import yaml

from plasticity_rl.errors import UserError

LOCK = "study.lock"
"""File in the folder of a study; it stays there, and says who runs the study, or did last."""


@contextlib.contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Hold the folder of a study, which is made if need be.

    The lock belongs to the open file: one that a dead process left behind is no lock. Where a file system has no locks,
    the process that is noted in the file is looked for, on the machine that is noted there.

    Raises:
        UserError: When somebody else holds it, with host, process and time; or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"the study's folder {folder} cannot be written ({error.strerror}): choose another with folder: in its file"
        ) from error
    with file:
        _take(file, folder)
        file.truncate(0)
        file.write(yaml.safe_dump(_myself(), sort_keys=False))
        file.flush()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # a folder that is gone has nothing to give back
                file.truncate(0)


def _take(file: IO[str], folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _taken(folder, _holder(file)) from error
    except OSError as error:
        holder = _holder(file)
        if holder.get("host") == socket.gethostname() and _is_alive(holder.get("pid")):
            raise _taken(folder, holder) from error
        if holder:
            print(
                f"warning: the file system of {folder} has no locks, and a `study run` is noted there that has not "
                f"ended by itself ({_named(holder)}): make sure that it is over",
                file=sys.stderr,
            )


def _taken(folder: Path, holder: Mapping[str, Any]) -> UserError:
    return UserError(
        f"another `study run` is at work in {folder} ({_named(holder)}): wait for it, or stop it first (Ctrl-C, or "
        "kill its pid)"
    )


def _named(holder: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {holder.get(name, 'unknown')}" for name in ("host", "pid", "since"))


def _myself() -> dict[str, Any]:
    now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": now}


def _holder(file: IO[str]) -> Mapping[str, Any]:
    try:
        file.seek(0)
        content = yaml.safe_load(file.read())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, Mapping) else {}


def _is_alive(pid: Any) -> bool:
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
