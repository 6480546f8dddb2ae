"""Import torchvision even beside a torch build that its compiled operators do not load with (CPU-only, other index)."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

OPERATORS = ("nms", "qnms")
"""Compiled operators that torchvision's Python part refers to while it is imported; no transform calls them."""


def torchvision_transforms() -> ModuleType:
    """Return ``torchvision.transforms.v2``, or skip the test where torchvision is not installed."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        pytest.skip("torchvision is not installed")
    for library in Path(spec.origin).parent.glob("_C*.so"):
        with contextlib.suppress(OSError):
            torch.ops.load_library(str(library))
    missing = [name for name in OPERATORS if not hasattr(torch.ops.torchvision, name)]
    if missing:
        declared = torch.library.Library("torchvision", "FRAGMENT")
        _KEPT.append(declared)  # what it declares goes away with it
        for name in missing:
            declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision.transforms.v2")


_KEPT: list[torch.library.Library] = []
