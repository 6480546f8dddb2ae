"""Why something ended, as far as the system says so: no memory, no room, no files, no rights. Light."""

from __future__ import annotations

import errno
import os
import traceback
from pathlib import Path

from plasticity_rl.errors import RunFailure, describe_error
from plasticity_rl.files.writing import replace_file

OUT_OF_MEMORY = (
    "CUDA out of memory",
    "can't allocate memory",
    "not enough memory: you tried",
    "unable to mmap",
    "Cannot allocate memory",
    "can't start new thread",
    "std::bad_alloc",
)
"""What torch and Python say when a device, or the system, has no room; mostly in a RuntimeError."""
FIXES = {
    errno.ENOSPC: "the disk is full: make room",
    errno.EDQUOT: "the quota of disk space is used up: make room",
    errno.EMFILE: "too many open files: raise the limit (ulimit -n), or use fewer environments and loggers",
    errno.ENFILE: "too many open files on this machine: close some",
    errno.EFBIG: "a file is larger than allowed: raise the limit (ulimit -f)",
    errno.EIO: "the disk or the network file system fails: look at it (dmesg)",
    errno.ESTALE: "the network file system has lost the folder: mount it again",
    errno.EROFS: "the file system is read-only: make it writable",
    errno.EPERM: "a file or folder may not be written: make it writable (chmod, chattr -i)",
    errno.EACCES: "a file or folder may not be written: make it writable (chmod, chattr -i)",
    errno.ENOENT: "a file or folder is gone: was it deleted, moved or unmounted?",
    errno.ENOTDIR: "there is a file where a folder was",
    errno.EAGAIN: "the system gives no more of it: raise the limit (ulimit -u), or end other processes",
}
"""What to do, by what the system says."""


def how_to_write(error: OSError) -> str:
    """Return what to do when the system refuses to write."""
    return "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "make it writable (chmod, chattr -i)"


def known_reason(error: BaseException | None) -> str | None:
    """Return why something failed, if the system or we know it; a second failure on the way out hides it in the chain.

    Args:
        error: What was raised last.
    """
    found, seen = None, set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, RunFailure):
            return str(error)
        found = _of_system(error) or found
        error = error.__cause__ or error.__context__
    return found


def _of_system(error: BaseException) -> str | None:
    text = " ".join(str(error).split())[:120]
    if isinstance(error, MemoryError) or any(said in str(error) for said in OUT_OF_MEMORY) or _is(error, errno.ENOMEM):
        return (
            f"out of memory ({text or 'the system gives none'}): lower --data.batch_size, --data.image_size, "
            "--data.capacity or the widths of the model, or raise the limit (ulimit -v)"
        )
    if not isinstance(error, OSError) or error.errno not in FIXES:
        return None
    place = f": {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
    return f"{FIXES[error.errno]} ({error.strerror}{place})"


def _is(error: BaseException, number: int) -> bool:
    return isinstance(error, OSError) and error.errno == number


def what_failed(error: BaseException) -> str:
    """Return what an error says in one line, and for one that is nobody's fault known here, where it was raised."""
    reason = known_reason(error)
    if reason is not None:
        return reason
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno}, {frames[-1].name})" if frames else ""
    return describe_error(error) + place


def write_traceback(error: BaseException, path: Path) -> Path | None:
    """Write the traceback to a file; return the file, or None where that cannot be written either."""
    try:
        replace_file(path, "".join(traceback.format_exception(error)))
    except OSError:
        return None
    return path
