"""Whether the files that are mapped into memory are still there, as they were."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from plasticity_rl.errors import RunFailure


class MappedFiles:
    """The files of a replay folder that are mapped, each known by inode and size.

    Args:
        folder: The folder, for messages.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[Path, tuple[int, int]] = {}

    def note(self, paths: Iterable[Path]) -> None:
        """Take files as they are now."""
        states = {path: path.stat() for path in paths}
        self._known = {path: (state.st_ino, state.st_size) for path, state in states.items()}

    def require_untouched(self) -> None:
        """Look whether the files are still those that are mapped, before they are read or written through memory.

        There a file that was cut short kills the process (SIGBUS), and one that was deleted takes everything in vain.

        Raises:
            RunFailure: When somebody deleted, moved, replaced or truncated one.
        """
        for path, (inode, size) in self._known.items():
            try:
                found = os.stat(path)
            except OSError as error:
                raise self._touched(f"{path.relative_to(self.folder)}: {error.strerror}") from error
            if (found.st_ino, found.st_size) != (inode, size):
                how = "is another file" if found.st_size == size else f"has {found.st_size} bytes, not {size}"
                raise self._touched(f"{path.relative_to(self.folder)} {how}")

    def _touched(self, how: str) -> RunFailure:
        return RunFailure(
            f"the replay in {self.folder} was deleted, moved or changed while the run was using it ({how}), so this "
            "state is not saved and the last checkpoint has lost its replay: put the folder back, or delete what is "
            "left of it and go on with an empty one (--ckpt_path last --data.allow_empty_replay true, not exact)"
        )
