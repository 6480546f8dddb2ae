"""What a run computes on, in words: noted at each of its starts, since no revision or version says it. Light."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Any

from plasticity_rl.machine.health import available_cores


def describe_hardware() -> dict[str, Any]:
    """Return processor, cores that this process may use, and names of the GPUs if torch has looked at any."""
    torch = sys.modules.get("torch")
    cuda = torch.cuda if torch is not None and torch.cuda.is_initialized() else None
    gpus = [cuda.get_device_name(index) for index in range(cuda.device_count())] if cuda is not None else []
    return {"processor": _processor(), "cores": available_cores(), **({"gpus": gpus} if gpus else {})}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
