"""Re-initialise and copy weights in place, so that optimizers, targets and DDP buckets stay valid."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import nn

from plasticity_rl.nn.hooks import HiddenActivation
from plasticity_rl.nn.hypersphere import Scale, project
from plasticity_rl.nn.layers import EVERYWHERE, NORM_LAYERS, Part, submodules
from plasticity_rl.nn.starts import draw_start, start_of
from plasticity_rl.nn.weight_transforms import is_thinned_out, prune_again

LayerInit = Callable[[nn.Module, "torch.Generator | None"], None]
"""Initialises one layer in place, drawing from the generator."""


@torch.no_grad()
def reinitialize(
    module: nn.Module, init_layer: LayerInit, generator: torch.Generator, parts: Collection[Part] = EVERYWHERE
) -> None:
    """Give every layer of ``module`` fresh initial weights, drawn on the CPU in module order.

    Layers of kinds that the agent does not initialise (an added norm, a rational activation) get the values of their
    own ``reset_parameters``, and layers that are marked by :mod:`plasticity_rl.nn.starts` start as those say. Pruned
    weights stay zero, and rows on the unit sphere that lack some have norm 1 too. Drawing on the CPU makes the weights
    independent of the device, hence equal on every rank of a mixed cluster.

    Args:
        module: Edited in place; its parameter tensors keep their identity.
        init_layer: The agent's own initialisation of one layer.
        generator: CPU generator.
        parts: Parts of it that are meant, see :func:`plasticity_rl.nn.layers.submodules`.
    """
    for layer in submodules(module, parts=parts).values():
        own = dict(layer.named_parameters(recurse=False))
        if own:
            _init_on_cpu(layer, own, init_layer, generator)
            prune_again(layer)
            if start_of(layer) == "spherical" and is_thinned_out(layer):
                project(layer.get_parameter("weight"))  # rows that lost weights have norm 1 too, as at the start


def _init_on_cpu(
    layer: nn.Module, own: dict[str, nn.Parameter], init_layer: LayerInit, generator: torch.Generator
) -> None:
    on_device = {name: p.data for name, p in own.items()}
    for p in own.values():
        p.data = p.data.cpu()
    if isinstance(layer, (*NORM_LAYERS, HiddenActivation, Scale)):
        layer.reset_parameters()  # may have been added to an agent whose own initialisation does not know the kind
    if (start := start_of(layer)) is not None:
        assert isinstance(layer, nn.Linear)
        draw_start(layer, start, generator)
    else:
        init_layer(layer, generator)
    for name, p in own.items():
        p.data = on_device[name].copy_(p.data)


@torch.no_grad()
def copy_parameters(source: nn.Module, destination: nn.Module) -> None:
    """Copy all parameters of ``source`` into the twin module ``destination``, in place.

    Raises:
        ValueError: When the modules have parameters of different names.
    """
    theirs, ours = dict(source.named_parameters()), dict(destination.named_parameters())
    if theirs.keys() != ours.keys():
        raise ValueError(f"modules are no twins: {sorted(theirs.keys() ^ ours.keys())} exist in one of them only")
    for name, parameter in ours.items():
        parameter.copy_(theirs[name])
