"""Copies of batches to a GPU, which return before they are done."""

from __future__ import annotations

import torch
from torch import Tensor


class CopiesToGPU:
    """Knows when a GPU has read the buffers in memory that batches lie in."""

    def __init__(self) -> None:
        self._enqueued: torch.cuda.Event | None = None  # all that a GPU had been given when a batch was last begun

    def let_end(self) -> None:
        """Wait until a GPU has read the buffers that are written next: those of the batch before the last.

        Copying a batch to a GPU returns before the copy is done, and many updates can be waiting in front of it. The
        batch before the last was copied before the last was begun.
        """
        if torch.cuda.is_initialized():
            if self._enqueued is not None:
                self._enqueued.synchronize()
            self._enqueued = torch.cuda.current_stream().record_event()


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Return values of the memory on a device, in a copy that does not wait for what was launched before."""
    if device.type == "cuda" and values.device.type == "cpu" and torch.cuda.is_available():
        values = values.pin_memory()  # out of ordinary memory a copy may wait
    return values.to(device, non_blocking=True)
