"""Move weights part of the way towards a fresh initialisation."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from plasticity_rl.surgery.reinit import LayerInit, reinitialize


@torch.no_grad()
def draw_fresh(module: nn.Module, init_layer: LayerInit, generator: torch.Generator) -> dict[str, Tensor]:
    """Return what :func:`reinitialize` would give ``module``, by parameter name, and leave the module as it is.

    Args:
        module: Its values are the same before and after.
        init_layer: The agent's own initialisation of one layer.
        generator: CPU generator.
    """
    parameters = dict(module.named_parameters())
    kept = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    reinitialize(module, init_layer, generator)
    fresh = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        parameter.copy_(kept[name])
    return fresh


@torch.no_grad()
def shrink_and_perturb(parameters: Iterable[Tensor], fresh: Iterable[Tensor], shrink: float, perturb: float) -> None:
    """Set ``theta <- shrink * theta + perturb * psi`` in place, over pairs of equal shape.

    Args:
        parameters: The thetas.
        fresh: The psis.
        shrink: Factor of the current values.
        perturb: Factor of the fresh values.
    """
    for parameter, value in zip(parameters, fresh, strict=True):
        parameter.mul_(shrink).add_(value, alpha=perturb)
