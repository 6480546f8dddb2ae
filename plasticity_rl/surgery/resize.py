"""Make layers of another size, and put layers between others."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils import skip_init

from plasticity_rl.nn.hypersphere import Scale
from plasticity_rl.nn.noisy import NoisyLinear
from plasticity_rl.nn.starts import mark_start, start_of


def resized(layer: nn.Module, outputs: int, inputs: int) -> nn.Module:
    """Return a layer like ``layer`` with other numbers of inputs and outputs; its values are not initialised.

    It starts as ``layer`` does, see :mod:`plasticity_rl.nn.starts`.

    Args:
        layer: Linear, also a noisy one; Conv2d without groups; LayerNorm over one dimension; GroupNorm of one group;
            Scale.
        outputs: Units or channels it makes; of a norm those that it normalises.
        inputs: Units or channels it reads; ignored for a norm.

    Raises:
        TypeError: When the layer is of another kind.
    """
    other = _resized(layer, outputs, inputs)
    if (start := start_of(layer)) is not None:
        assert isinstance(other, nn.Linear)
        mark_start(other, start)
    return other


def _resized(layer: nn.Module, outputs: int, inputs: int) -> nn.Module:
    parameter = next(layer.parameters())
    same: dict[str, Any] = {"device": parameter.device, "dtype": parameter.dtype}
    if isinstance(layer, NoisyLinear):
        with torch.device("meta"):
            other = NoisyLinear(inputs, outputs, layer.sigma)
        return other.to_empty(device=parameter.device).to(parameter.dtype)
    if isinstance(layer, nn.Linear):
        return skip_init(nn.Linear, inputs, outputs, bias=layer.bias is not None, **same)
    if isinstance(layer, nn.Conv2d) and layer.groups == 1:
        names = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
        same |= {name: getattr(layer, name) for name in names}
        return skip_init(nn.Conv2d, inputs, outputs, bias=layer.bias is not None, **same)
    if isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) == 1:
        return nn.LayerNorm(outputs, layer.eps, bias=layer.bias is not None, **same)
    if isinstance(layer, nn.GroupNorm) and layer.num_groups == 1:
        return nn.GroupNorm(1, outputs, layer.eps, **same)
    if isinstance(layer, Scale):
        return Scale(outputs, layer.first, layer.start).to(**same)
    raise TypeError(f"cannot resize {layer}")


def size_of(layer: nn.Module) -> tuple[int, int]:
    """Return the numbers of outputs and inputs of a layer that :func:`resized` takes; a norm has as many of both."""
    weight = layer.get_parameter("weight")
    return weight.shape[0], weight.shape[1] if weight.dim() > 1 else weight.shape[0]


def refill(sequential: nn.Sequential, layers: nn.Sequential) -> None:
    """Let ``sequential`` hold the children of ``layers`` instead of its own, in place: whoever holds it keeps it."""
    for name, _ in list(sequential.named_children()):
        delattr(sequential, name)
    for name, child in layers.named_children():
        setattr(sequential, name, child)


def insert_first(sequential: nn.Sequential, name: str, layer: nn.Module) -> None:
    """Put ``layer`` before all children under a name of its own, in place; these keep their names."""
    children = dict(sequential.named_children())
    for other in children:
        delattr(sequential, other)
    setattr(sequential, name, layer)
    for other, child in children.items():
        setattr(sequential, other, child)


def insert_after(sequential: nn.Sequential, name: str, new_name: str, layer: nn.Module) -> None:
    """Put ``layer`` behind the child called ``name``, in place; all other children keep their names.

    ``nn.Sequential.insert`` would number the children that follow anew, and with them the names of their parameters.
    """
    children = dict(sequential.named_children())
    following = list(children)[list(children).index(name) + 1 :]
    for other in following:
        delattr(sequential, other)
    setattr(sequential, new_name, layer)
    for other in following:
        setattr(sequential, other, children[other])
