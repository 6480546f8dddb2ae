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
        module: Its values are the same before and after, those of its buffers too.
        init_layer: The agent's own initialisation of one layer.
        generator: CPU generator.
    """
    parameters = dict(module.named_parameters())
    tensors = [*parameters.values(), *module.buffers()]  # a reset of batch norm forgets its running statistics
    kept = [tensor.detach().clone() for tensor in tensors]
    reinitialize(module, init_layer, generator)
    fresh = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    for tensor, value in zip(tensors, kept, strict=True):
        tensor.copy_(value)
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
