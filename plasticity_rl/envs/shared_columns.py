"""Memory that processes share, as one tensor for each quantity of all environments; it has no name to leave behind."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Mapping

import torch
from torch import Tensor

Key = tuple[str, ...]
Layout = Mapping[Key, tuple[torch.dtype, tuple[int, ...]]]
"""Dtype and shape, of one environment, by key."""
ALIGNMENT = 64
"""Bytes: a line of the cache, so that two processes never write into one."""


class SharedColumns:
    """A tensor ``(num_envs, *shape)`` for every key of a layout, the same memory in every process that has the file.

    The file has no name: when the last process that maps it ends, by whatever, nothing is left, nor in ``/dev/shm``.

    Attributes:
        file: Its descriptor, to be passed on; None after :meth:`close_file`.
        columns: The tensors by key.

    Args:
        layout: What is held.
        num_envs: Of how many environments.
        file: Descriptor of what another process has made with the same layout, or None for new memory of zeros.
    """

    def __init__(self, layout: Layout, num_envs: int, file: int | None = None) -> None:
        sizes = {key: _bytes(dtype, (num_envs, *shape)) for key, (dtype, shape) in layout.items()}
        total = max(sum(sizes.values()), 1)
        self.file: int | None = _new_file(total) if file is None else file
        assert self.file is not None
        mapped = mmap.mmap(self.file, total)  # with a descriptor of its own
        self.columns: dict[Key, Tensor] = {}
        offset = 0
        for key, (dtype, shape) in layout.items():
            full = (num_envs, *shape)
            if count := math.prod(full):
                self.columns[key] = torch.frombuffer(mapped, dtype=dtype, count=count, offset=offset).view(full)
            else:
                self.columns[key] = torch.empty(full, dtype=dtype)
            offset += sizes[key]

    def close_file(self) -> None:
        """Close the descriptor once everybody has it; the memory stays."""
        if self.file is not None:
            os.close(self.file)
            self.file = None


def _bytes(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    return -(-math.prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT


def _new_file(num_bytes: int) -> int:
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("plasticity_rl")
    else:
        with tempfile.TemporaryFile() as unlinked:
            file = os.dup(unlinked.fileno())
    os.truncate(file, num_bytes)
    return file
