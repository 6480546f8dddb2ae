"""Edit the weights of single hidden units, in place: the rows that make them and the columns that read them."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from plasticity_rl.nn.weight_transforms import prune_again, weight_in_use
from plasticity_rl.surgery.reinit import LayerInit, reinitialize


def unit_rows(parameter: Tensor, units: Tensor) -> Tensor:
    """Return where ``parameter`` (weight or bias of the layer that makes the units) belongs to ``units``.

    Args:
        parameter: ``(n, ...)``, one row per unit.
        units: Bool ``(n,)``.

    Returns:
        Bool mask that broadcasts with ``parameter``.
    """
    return units.view(-1, *[1] * (parameter.dim() - 1))


def unit_columns(weight: Tensor, units: Tensor, inputs: int) -> Tensor:
    """Return where ``weight`` (of a layer that reads the units) multiplies ``units``.

    A Linear layer behind a flattened convolution reads each channel through a block of height * width columns, channel
    by channel, as ``flatten`` lays them out. Inputs after the first ``inputs`` come from elsewhere (an action).

    Args:
        weight: ``(out, in, ...)`` of a Linear or Conv2d layer.
        units: Bool ``(n,)``.
        inputs: Number of leading inputs made of the units, a multiple of n.

    Returns:
        Bool mask that broadcasts with ``weight``.

    Raises:
        ValueError: When ``inputs`` is no multiple of n or more than the layer has.
    """
    if inputs % len(units) or inputs > weight.shape[1]:
        raise ValueError(f"{inputs} inputs of a weight {tuple(weight.shape)} cannot be made of {len(units)} units")
    columns = torch.zeros(weight.shape[1], dtype=torch.bool, device=weight.device)
    columns[:inputs] = units.to(weight.device).repeat_interleave(inputs // len(units))
    return columns.view(1, -1, *[1] * (weight.dim() - 2))


@torch.no_grad()
def redraw_units(layer: nn.Module, units: Tensor, init_layer: LayerInit, generator: torch.Generator) -> None:
    """Give ``units`` of ``layer`` incoming weights as at initialisation, and bias 0.

    A whole layer is drawn and the rows of the units are taken from it, so they have the agent's own distribution.
    LayerNorm weights and biases are taken as drawn. So are the scales of the noise of a noisy layer: the unit explores
    as a new one does.

    Args:
        layer: Linear, Conv2d, or a norm with one weight per unit.
        units: Bool ``(n,)``.
        init_layer: The agent's own initialisation of one layer.
        generator: CPU generator.
    """
    copy_units(fresh_layer(layer, init_layer, generator), layer, units)


@torch.no_grad()
def fresh_layer(
    layer: nn.Module, init_layer: LayerInit, generator: torch.Generator, *, pruned: bool = True
) -> nn.Module:
    """Return a copy of ``layer`` with weights as at initialisation, and bias 0 if it is a Linear or Conv2d layer.

    Args:
        layer: Any layer.
        init_layer: The agent's own initialisation of one layer.
        generator: CPU generator.
        pruned: Whether weights that are pruned in ``layer`` are zero in the copy; not for rows that go elsewhere in it.
    """
    fresh = copy.deepcopy(layer)
    if not pruned and hasattr(fresh, "transforms"):
        fresh.transforms = nn.ModuleList()
    reinitialize(fresh, init_layer, generator)
    if isinstance(fresh, (nn.Linear, nn.Conv2d)) and fresh.bias is not None:
        fresh.bias.zero_()
    return fresh


@torch.no_grad()
def write_units(layer: nn.Module, units: Tensor, rows: Mapping[str, Tensor]) -> None:
    """Set incoming weights and biases of single units; pruned weights stay zero.

    Args:
        layer: Layer that makes the units.
        units: Their indices, int64 ``(k,)``, on the layer's device.
        rows: For every parameter of the layer by name, ``k`` rows.
    """
    for name, parameter in layer.named_parameters(recurse=False):
        parameter.index_copy_(0, units, rows[name].to(parameter.device))
    prune_again(layer)


@torch.no_grad()
def absorb_units(layer: nn.Module, units: Tensor, means: Tensor, inputs: int) -> None:
    """Add to the bias of a layer what it reads from ``units`` on average, so that they can be taken away.

    For a convolution with zero padding this is exact in the inner part of the image only. The noise with which a noisy
    layer reads them is 0 on average.

    Args:
        layer: Linear or Conv2d layer that reads the units; left alone where it has no bias.
        units: Bool ``(n,)``.
        means: Mean output of every unit, ``(n,)``, over space as well where a convolution reads them; or of each of
            their positions, ``(inputs,)`` channel by channel, where a Linear layer reads them flattened.
        inputs: Number of leading inputs made of the units, a multiple of n.
    """
    bias = dict(layer.named_parameters(recurse=False)).get("bias")
    if bias is not None:
        bias.add_(read_on_average(weight_in_use(layer), units, means, inputs))


@torch.no_grad()
def read_on_average(weight: Tensor, units: Tensor, means: Tensor, inputs: int) -> Tensor:
    """Return what a layer with ``weight`` reads from ``units`` on average, ``(out,)``; see :func:`absorb_units`."""
    by_input = weight.flatten(2).sum(2) if weight.dim() > 2 else weight
    values = means.repeat_interleave(inputs // len(means)) * units.repeat_interleave(inputs // len(units))
    return by_input[:, :inputs] @ values.to(weight.dtype)


@torch.no_grad()
def copy_units(source: nn.Module, destination: nn.Module, units: Tensor) -> None:
    """Copy the incoming weights and biases of ``units`` into the twin layer ``destination``."""
    theirs = dict(source.named_parameters(recurse=False))
    for name, parameter in destination.named_parameters(recurse=False):
        parameter.copy_(torch.where(unit_rows(parameter, units), theirs[name], parameter))


@torch.no_grad()
def zero_units(layer: nn.Module, units: Tensor) -> None:
    """Set the incoming weights and biases of ``units`` to zero, and their noise: behind a ReLU their output is zero."""
    for parameter in layer.parameters(recurse=False):
        parameter.masked_fill_(unit_rows(parameter, units), 0.0)


@torch.no_grad()
def zero_columns(weight: Tensor, units: Tensor, inputs: int) -> None:
    """Set the weights with which a layer reads ``units`` to zero; see :func:`unit_columns`."""
    weight.masked_fill_(unit_columns(weight, units, inputs), 0.0)
