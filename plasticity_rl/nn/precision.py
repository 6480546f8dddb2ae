"""Reduced precision: what runs in bfloat16 under ``--trainer.precision bf16-mixed``, and what never does.

The convolutions and the trunks do: they are nearly all of the arithmetic. Never: the heads (a value of 100 has steps of
0.5 in bfloat16), losses and their terms, optimizers, targets, and everything that callbacks compute.
"""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import lightning.pytorch as pl

BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "avx_ne_convert")
"""Capabilities of x86 CPUs, any of which suffices to compute in bfloat16."""


def reduced(device: torch.device) -> bool:
    """Return whether autocast is on for ``device``."""
    return torch.is_autocast_enabled(device.type)


def full_precision(device: torch.device) -> AbstractContextManager:
    """Return a context without autocast on ``device``."""
    return torch.autocast(device.type, enabled=False) if reduced(device) else nullcontext()


def precision_of(trainer: pl.Trainer | None) -> AbstractContextManager:
    """Return the context in which a Trainer computes its own steps, for those that are made inside of a hook."""
    return nullcontext() if trainer is None else trainer.precision_plugin.forward_context()


def widen(tensor: Tensor) -> Tensor:
    """Return ``tensor``, as float32 where it is bfloat16 or float16."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def in_full_precision(module: nn.Module, inputs: Tensor) -> Tensor:
    """Return ``module(inputs)``, computed without autocast and on widened ``inputs``."""
    with full_precision(inputs.device):
        return module(widen(inputs))


def has_instructions(device: torch.device) -> bool | None:
    """Return whether a CPU computes in bfloat16 by itself; None where that is not known, or ``device`` is no CPU."""
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return None
    capabilities = torch.cpu.get_capabilities()
    known = [capabilities[name] for name in BFLOAT16_INSTRUCTIONS if name in capabilities]
    return any(known) if known else None


def warn_where_emulated(precision: str, device: torch.device) -> None:
    """Warn, once at the start, of ``bf16-mixed`` on a CPU without instructions for bfloat16.

    It takes 1.5 times as long as float32 on one with AVX-512, and 10 times on one with AVX2. Where torch does not tell
    what the CPU has (an older torch, or not x86), nothing is said.
    """
    if precision == "bf16-mixed" and has_instructions(device) is False:
        warnings.warn(
            "trainer.precision=bf16-mixed: this CPU has no instructions for bfloat16 and emulates it, which is slower "
            "than --trainer.precision=32-true",
            stacklevel=2,
        )


def hint_where_faster(precision: str, device: torch.device) -> str | None:
    """Return the line that a float32 run says on a CPU with instructions for bfloat16, or None for nothing.

    For updates that are mostly convolutions: those of full size take half the time (``docs/performance.md``).
    """
    if precision != "32-true" or not has_instructions(device):
        return None
    return (
        "Hint: this CPU computes in bfloat16: --trainer.precision bf16-mixed takes about half the time for an update "
        "of this size, and rounds differently"
    )
