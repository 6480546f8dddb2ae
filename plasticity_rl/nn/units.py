"""Hidden units of a network: which layers make them, which layers read them, and how active they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from plasticity_rl.distributed.ranks import world_size_of
from plasticity_rl.errors import UserError
from plasticity_rl.measures import NotFiniteError, dormant_mask

if TYPE_CHECKING:
    from plasticity_rl.agents.base import RLModule

UNIT_NORMS = (nn.LayerNorm, nn.GroupNorm)
"""Norms with one weight and one bias per unit."""

Leaf = tuple[str, nn.Module]
"""A layer that is not a container, with its dotted name in the agent."""


@dataclass(frozen=True)
class Reader:
    """A layer that reads the output of hidden units.

    Attributes:
        layer: Linear or Conv2d.
        inputs: How many of its leading inputs are these units: one each, or height * width each behind a flattened
            convolution, channel by channel. The inputs after them come from elsewhere.
    """

    layer: nn.Module
    inputs: int

    @property
    def weight(self) -> nn.Parameter:
        """Weight of the layer, ``(out, in, ...)``."""
        return self.layer.get_parameter("weight")


@dataclass(frozen=True)
class UnitLayer:
    """The hidden units behind one activation.

    A LayerNorm *before* the activation belongs to the makers: its weight and bias have one element per unit (behind a
    convolution it is a GroupNorm of one group). It also mixes the units, so an edit of one moves the others a little.
    A LayerNorm after a *reader* (the trunks of DrQ-v2) is not concerned: it sees what the reader makes of the units,
    and a unit read with weight zero does not reach it.

    Attributes:
        name: Dotted name of the activation in the agent.
        activation: Its output are the units, in dimension 1; of a CReLU first all positive parts, then all negative.
        makers: The Linear or Conv2d layer with one row per unit, then the LayerNorm behind it, if any.
        twins: The makers' twins in the target network, in the same order; empty where there is no target.
        readers: Every layer that reads the units, in the target network as well.
    """

    name: str
    activation: nn.Module
    makers: tuple[nn.Module, ...]
    twins: tuple[nn.Module, ...]
    readers: tuple[Reader, ...]

    @property
    def size(self) -> int:
        """Number of units; channels of a convolution."""
        return len(next(self.makers[0].parameters()))

    @property
    def copies(self) -> int:
        """Outputs of the activation per unit: 1 of a ReLU, 2 of a CReLU."""
        return getattr(self.activation, "copies", 1)

    def outputs_of(self, units: Tensor) -> Tensor:
        """Turn a bool mask of units ``(n,)`` into one of the activation's outputs ``(copies * n,)``."""
        return units.repeat(self.copies)


def unit_layers(agent: RLModule, name: str) -> list[UnitLayer]:
    """Return the hidden units of a module of ``agent``; see :meth:`RLModule.units`."""
    top = name.split(".")[0]
    wanted = {id(layer) for layer in agent.activation_layers(name).values()}
    found = [
        _unit_layer(agent, chain, index, top)
        for chain in chains(agent.module(top), top)
        for index, (_, layer) in enumerate(chain)
        if id(layer) in wanted
    ]
    if len(found) < len(wanted):
        raise UserError(f"cannot tell which layers read the units of {name!r}: some lie outside an nn.Sequential")
    return found


def chains(module: nn.Module, path: str) -> Iterator[list[Leaf]]:
    """Yield the leaves of every outermost ``nn.Sequential`` in ``module``, and of those inside their leaves."""
    if isinstance(module, nn.Sequential):
        chain = list(_leaves(module, path))
        yield chain
        children = chain
    else:
        children = [(f"{path}.{name}", child) for name, child in module.named_children()]
    for name, child in children:
        yield from chains(child, name)


def _leaves(sequential: nn.Sequential, path: str) -> Iterator[Leaf]:
    for name, child in sequential.named_children():
        if isinstance(child, nn.Sequential):
            yield from _leaves(child, f"{path}.{name}")
        else:
            yield f"{path}.{name}", child


def _unit_layer(agent: RLModule, chain: Sequence[Leaf], index: int, top: str) -> UnitLayer:
    name, activation = chain[index]
    before = _until_weights(chain[:index][::-1], (*UNIT_NORMS, nn.Identity), name)
    after = _until_weights(chain[index + 1 :], (nn.Identity, nn.Flatten), name)
    if not before:
        raise UserError(f"no Linear or Conv2d layer makes the units of {name!r}")
    makers = [before[-1], *(leaf for leaf in before[:-1] if isinstance(leaf[1], UNIT_NORMS))]
    readers = [Reader(layer, layer.weight.shape[1]) for layer in _with_target(agent, after[-1:])]
    readers = readers or list(agent.output_readers(top))
    if not readers:
        raise UserError(f"{type(agent).__name__} does not say which layers read the units of {name!r}")
    twins = tuple(twin for path, _ in makers if (twin := agent.target_of(path)) is not None)
    return UnitLayer(name, activation, tuple(layer for _, layer in makers), twins, tuple(readers))


def _until_weights(leaves: Sequence[Leaf], transparent: tuple[type, ...], name: str) -> list[Leaf]:
    """Return the leaves up to the first Linear or Conv2d; none where the chain ends before."""
    for index, (path, layer) in enumerate(leaves):
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            return list(leaves[: index + 1])
        if not isinstance(layer, transparent):
            raise UserError(f"cannot follow the units of {name!r} through {path!r}, a {type(layer).__name__}")
    return []


def _with_target(agent: RLModule, leaves: Sequence[Leaf]) -> list[Any]:
    layers = [layer for _, layer in leaves]
    return layers + [twin for path, _ in leaves if (twin := agent.target_of(path)) is not None]


@torch.no_grad()
def unit_activity(agent: RLModule, name: str, batch_size: int) -> list[tuple[UnitLayer, Tensor]]:
    """Return the hidden units of a module, each layer with the mean absolute output ``(n,)`` of its units.

    The mean is over the probe batch, and over space in convolutions. Under DDP it is the mean over all ranks, so that
    all decide alike.
    """
    outputs = agent.probe_activations(name, batch_size)
    path_of = {id(layer): path for path, layer in agent.activation_layers(name).items()}
    activity = []
    for layer in agent.units(name):
        if path_of[id(layer.activation)] not in outputs:
            continue  # a head that does not run yet
        mean = outputs[path_of[id(layer.activation)]].abs().transpose(0, 1).flatten(1).mean(1)
        activity.append((layer, over_ranks(agent, mean.view(layer.copies, -1).mean(0))))
    return activity


def over_ranks(agent: RLModule, mean: Tensor) -> Tensor:
    """Return the mean of ``mean`` over all ranks."""
    if agent._trainer is None:
        return mean
    reduced = agent.trainer.strategy.reduce(mean, reduce_op="mean")
    assert isinstance(reduced, Tensor)
    return reduced


def mean_over_ranks(agent: RLModule, scalars: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the mean of each of ``scalars`` over all ranks, which must all have the same ones."""
    names = sorted(scalars.keys())
    if not names or world_size_of(agent) == 1:
        return dict(scalars.items())
    means = over_ranks(agent, torch.stack([scalars[name].float() for name in names]))
    return dict(zip(names, means.unbind(), strict=True))


def dormant(activity: Tensor, tau: float) -> Tensor:
    """Return which units of a layer are dormant at ``tau``, as :func:`plasticity_rl.measures.dormant_mask`.

    Args:
        activity: Mean absolute output of each unit, ``(n,)``. With NaN or infinity among them none counts as dormant.
        tau: Threshold, in [0, 1). In a layer without any activity all units are dormant.
    """
    try:
        return dormant_mask(activity[None], tau)
    except NotFiniteError:
        return torch.zeros_like(activity, dtype=torch.bool)
