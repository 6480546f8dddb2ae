"""Writing files that others may have prepared a trap for: whole or not at all, never through a symbolic link. Light.

Whoever may write into a folder can put a link there under a name that is going to be written, to a file elsewhere that
only the user of this program may write. Links to folders are the user's business: a run folder, ``checkpoints/`` or
``replay/`` may lie on another disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from plasticity_rl.errors import UserError

EVERYBODY, OWNER = 0o666, 0o600
"""Modes of a new file, of which the umask takes away."""
NO_LINKS = getattr(os, "O_NOFOLLOW", 0)


def replace_file(
    path: Path, content: bytes | memoryview | str, *, durable: bool = False, private: bool = False, draft: str = ""
) -> None:
    """Write ``content`` to ``path``: a reader finds all of it, or what was there before.

    Args:
        path: The file; a link of that name is replaced, not followed.
        content: Text is written as UTF-8.
        durable: Whether that holds after a power failure too.
        private: Whether nobody else may read it.
        draft: Name under which it is written, in the same folder; "" for one of its own.
    """
    with drafted(path, private=private, name=draft) as new, open(new, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    if durable:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # else a power failure could undo the renaming
        finally:
            os.close(folder)


@contextlib.contextmanager
def drafted(path: Path, *, private: bool = False, name: str = "") -> Iterator[Path]:
    """Give a new, empty file beside ``path`` to write to; afterwards it takes the place of ``path``.

    What is at its name, of a program that was killed or a link that somebody made, is removed before.
    """
    draft = path.with_name(name or f".new.{path.name}")  # the same ending: some writers go by it
    draft.unlink(missing_ok=True)
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_LINKS, OWNER if private else EVERYBODY))
    try:
        yield draft
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def open_to_append(path: Path) -> IO[str]:
    """Open a text file at its end, or a new one.

    Raises:
        UserError: When it is a symbolic link.
    """
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | NO_LINKS, EVERYBODY)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{path} is a symbolic link; a run writes into its own folder only: remove it") from error
        raise
    return open(number, "a", encoding="utf-8")


def refuse_link(path: Path) -> None:
    """Raise UserError when something that is written in place is a symbolic link."""
    if path.is_symlink():
        raise UserError(f"{path} is a symbolic link; a run writes into its own folder only: remove it")


def remove_link(path: Path) -> None:
    """Remove a symbolic link at a name that another library is going to write to."""
    if path.is_symlink():
        path.unlink()
