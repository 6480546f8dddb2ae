"""Memory that an update has freed is kept for the next one, instead of being given back to the system.

glibc maps every large buffer anew and unmaps it when it is freed, so that each update touches gigabytes of fresh pages:
at full size on a CPU, more than half of its processor time was page faults (``docs/performance.md``).
"""

from __future__ import annotations

import ctypes
import os
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # malloc.h
LARGEST_KEPT_BYTES = 2**30
"""Larger blocks, such as a replay in memory, remain mappings of their own, which go back when they are freed."""
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let glibc's malloc keep what is freed, for this process; return whether it does. Results are the same bits.

    Nothing is changed where another malloc is used than glibc's, or where the user has set its thresholds (variables
    ``MALLOC_*`` or ``GLIBC_TUNABLES``).
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith(("MALLOC_", "GLIBC_TUN")) for name in os.environ):
        return False
    libc = ctypes.CDLL(None)
    # Before glibc 2.35 the threshold is at most 32 MiB, less than a layer's output: then there are no mappings at all.
    mapped = libc.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES) or libc.mallopt(M_MMAP_MAX, 0)
    return bool(mapped and libc.mallopt(M_TRIM_THRESHOLD, NEVER))
