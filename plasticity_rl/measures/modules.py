"""The quantities of the probes for any ``nn.Module`` in Python, without agent, Trainer or run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from plasticity_rl.activations import HiddenActivation, record_pass
from plasticity_rl.measures import (
    Spectrum,
    active_and_total,
    approximate_rank,
    dormant_mask,
    effective_rank,
    feature_rank,
    l2_norm,
    pooled_fraction,
    spectrum,
    srank,
    stable_rank,
)

RANKS: dict[str, Callable[[Spectrum], float]] = {
    "srank": srank,
    "feature_rank": feature_rank,
    "effective_rank": effective_rank,
    "stable_rank": stable_rank,
    "approximate_rank": approximate_rank,
}


def measure_module(module: nn.Module, *inputs: Any, tau: float = 0.025) -> dict[str, float]:
    """Measure a module on a batch: what the probes log of an agent's modules, under the same names.

    The hidden layers are the ReLU (and our own) activation layers; the ranks are of the last one's outputs. The module
    is run once in evaluation mode without gradient, and is afterwards as it was::

        measure_module(torchvision.models.resnet18(), images)["fau"]

    Args:
        module: Any module with at least one hidden activation layer.
        *inputs: What it is called with; the first dimension is the batch.
        tau: Threshold of dormant units.

    Returns:
        ``fau``, ``dormant/tau_<tau>``, ``rank/<name>``, ``weight_norm``, and the first two followed by ``/<layer>``
        (of dormant units before the threshold).

    Raises:
        ValueError: When the module ran no activation layer.
    """
    wrapped = _AnyModule(module)
    recorded = record_pass(wrapped, inputs).activations  # type: ignore[arg-type]  # it needs the three names below alone
    layers = {name: recorded[layer] for name, layer in wrapped.activation_layers().items() if layer in recorded}
    if not layers:
        raise ValueError(f"{type(module).__name__} has no hidden activation layer (nn.ReLU)")
    counts = {name: active_and_total(output) for name, output in layers.items()}
    masks = {name: dormant_mask(output, tau) for name, output in layers.items()}
    features = spectrum(list(layers.values())[-1])
    found: dict[str, Any] = {
        "fau": pooled_fraction(counts.values()),
        **{f"fau/{name}": active / total for name, (active, total) in counts.items()},
        f"dormant/tau_{tau}": torch.cat(list(masks.values())).float().mean(),
        **{f"dormant/{name}/tau_{tau}": mask.float().mean() for name, mask in masks.items()},
        **{f"rank/{name}": rank(features) for name, rank in RANKS.items()},
        "weight_norm": l2_norm(module.parameters()),
    }
    return {tag: float(value) for tag, value in found.items()}


class _AnyModule(nn.Module):
    """Has what ``record_pass`` asks an agent for."""

    module_names = ("module",)

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def activation_layers(self, name: str = "module") -> dict[str, nn.Module]:
        kinds = (nn.ReLU, HiddenActivation)
        return {path: layer for path, layer in self.module.named_modules() if isinstance(layer, kinds)}

    def forward_all(self, inputs: Any) -> None:
        self.module(*inputs)
