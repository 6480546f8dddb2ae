"""Reduced precision: what runs in bfloat16 under ``--trainer.precision bf16-mixed``, and what never does.

The convolutions and the trunks do: they are nearly all of the arithmetic. Never: the heads (a value of 100 has steps of
0.5 in bfloat16), losses and their terms, optimizers, targets, and everything that callbacks compute.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn


def reduced(device: torch.device) -> bool:
    """Return whether autocast is on for ``device``."""
    return torch.is_autocast_enabled(device.type)


def full_precision(device: torch.device) -> AbstractContextManager:
    """Return a context without autocast on ``device``."""
    return torch.autocast(device.type, enabled=False) if reduced(device) else nullcontext()


def widen(tensor: Tensor) -> Tensor:
    """Return ``tensor``, as float32 where it is bfloat16 or float16."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def in_full_precision(module: nn.Module, inputs: Tensor) -> Tensor:
    """Return ``module(inputs)``, computed without autocast and on widened ``inputs``."""
    with full_precision(inputs.device):
        return module(widen(inputs))
