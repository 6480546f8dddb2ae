"""What memory and disk can hold, and whether a full replay fits: asked before a run starts."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Literal

from plasticity_rl.errors import UserError


def check_fits(
    num_bytes: int,
    storage: Literal["ram", "memmap", "device"],
    folder: str | os.PathLike[str] | None = None,
    priority_bytes: int = 0,
) -> None:
    """Refuse a replay that memory or disk could not hold once it is full.

    Args:
        num_bytes: Size of the full replay, from :func:`replay_bytes`.
        storage: ``"ram"`` needs memory, and disk too when there is a folder; ``"memmap"`` and ``"device"`` disk only (a
            device refuses by itself at the start).
        folder: The replay folder. What it already holds counts as available.
        priority_bytes: Size of the priorities, which lie in memory with either storage.

    Raises:
        UserError: Naming the bytes needed, the bytes available, and the option to change.
    """
    in_memory = (num_bytes if storage == "ram" else 0) + priority_bytes
    memory = available_memory() if in_memory else None
    if memory is not None and in_memory > memory:
        what = f"The priorities of a full replay need {show_bytes(in_memory)}"
        fix = ""
        if storage == "ram":
            what = f"A full replay needs {show_bytes(in_memory)}"
            fix = ", or keep the replay on disk with --data.storage memmap"
        raise UserError(
            f"{what} of memory but {show_bytes(memory)} are available. Lower --data.capacity or "
            f"--data.resumable_epochs{fix}."
        )
    if folder is not None:
        disk = available_disk(Path(folder))
        if num_bytes > disk:
            raise UserError(
                f"A full replay needs {show_bytes(num_bytes)} of disk in {folder} but {show_bytes(disk)} are available."
                " Lower --data.capacity or --data.resumable_epochs, or put the run on a larger disk."
            )


def available_memory() -> int | None:
    """Return the bytes of memory a process may still use, or None where the system does not tell."""
    limit = _first_int(Path("/sys/fs/cgroup/memory.max"), "")  # containers: "max" when unlimited
    free = _first_int(Path("/proc/meminfo"), "MemAvailable:")
    found = [limit] if limit is not None else []
    if free is not None:
        found.append(free * 1024)
    else:
        with contextlib.suppress(AttributeError, ValueError, OSError):
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))  # total: an upper bound
    return min(found, default=None)


def largest_memory() -> int | None:
    """Return the bytes that are available in memory, or in all of the largest GPU, or None where nobody tells."""
    import torch

    found = [memory] if (memory := available_memory()) is not None else []
    if found and torch.cuda.is_available():
        devices = range(torch.cuda.device_count())
        found += [torch.cuda.get_device_properties(device).total_memory for device in devices]
    return max(found, default=None)


def _first_int(path: Path, prefix: str) -> int | None:
    """Return the first integer of the first line of ``path`` that starts with ``prefix``, or None."""
    try:
        line = next(line for line in path.read_text(encoding="ascii").splitlines() if line.startswith(prefix))
        return int(line.removeprefix(prefix).split()[0])
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def available_disk(folder: Path) -> int:
    """Return the free bytes at ``folder`` (which need not exist yet) plus those its files already occupy."""
    here = folder.absolute()
    while not here.exists():
        here = here.parent
    stats = [path.stat() for path in folder.rglob("*") if path.is_file()]
    # Sparse files report their full length as st_size; the blocks are what is really taken.
    occupied = sum(stat.st_blocks * 512 if hasattr(stat, "st_blocks") else stat.st_size for stat in stats)
    return shutil.disk_usage(here).free + occupied


def show_bytes(num_bytes: int) -> str:
    """Return a size for a message."""
    return f"{num_bytes} bytes ({num_bytes / 1e9:.1f} GB)"


def rounded_bytes(num_bytes: int) -> str:
    """Return about how large something is: ``7.3 kB``, ``0.4 MB``, ``21.2 GB``."""
    if num_bytes >= 10**8:
        return f"{num_bytes / 1e9:.1f} GB"
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes >= 10**5 else f"{num_bytes / 1e3:.1f} kB"
