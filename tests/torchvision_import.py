"""Lets torchvision be imported where its binary does not fit the installed torch (a CPU build of another origin).

torchvision 0.28 then fails with "operator torchvision::nms does not exist", although its models and transforms need no
operator of its own. Declaring the missing operators, without an implementation, is enough.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import torch

_SCHEMAS = ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",)
_SCHEMAS += ("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",)
_declared: list[torch.library.Library] = []  # the operators live as long as this


def declare_missing_operators() -> None:
    """Declare torchvision's operators if its binary cannot; cheap, because torchvision itself is not imported."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or _declared or hasattr(torch.ops.torchvision, "nms"):
        return
    try:
        for binary in Path(spec.origin).parent.glob("_C*"):
            torch.ops.load_library(binary)
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for schema in _SCHEMAS:
            library.define(schema)
        _declared.append(library)


def import_torchvision() -> ModuleType:
    """Return torchvision with its models."""
    declare_missing_operators()
    import torchvision.models

    return torchvision
