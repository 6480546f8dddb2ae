"""Hidden units of a network: which layers make them, and which layers read them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from plasticity_rl.errors import UserError
from plasticity_rl.nn.hypersphere import Nudge, Scale
from plasticity_rl.nn.residual import Residual

UNIT_NORMS = (nn.LayerNorm, nn.GroupNorm)
"""Norms with one weight and one bias per unit."""
OF_THE_UNITS = (*UNIT_NORMS, Scale)
"""Layers between what makes units and their activation that belong to the makers: one weight per unit."""

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

    @property
    def weights(self) -> list[nn.Parameter]:
        """All that has a column for each input: the weight, and of a noisy layer the scales of its noise."""
        return [p for p in self.layer.parameters(recurse=False) if p.shape == self.weight.shape]


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
        makers: The Linear or Conv2d layer with one row per unit, then the LayerNorm or Scale behind it, if any.
        twins: The makers' twins in the target network, in the same order; empty where there is no target.
        readers: Every layer that reads the units, in the target network as well; empty where nothing tells.
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

    @property
    def positions(self) -> int:
        """Inputs of a reader for each output of the activation: 1, or height * width of flattened channels."""
        return self.readers[0].inputs // (self.copies * self.size)

    def outputs_of(self, units: Tensor) -> Tensor:
        """Turn a bool mask of units ``(n,)`` into one of the activation's outputs ``(copies * n,)``."""
        return units.repeat(self.copies)


def unit_layers(
    module: nn.Module,
    path: str,
    activations: Collection[nn.Module],
    target_of: Callable[[str], nn.Module | None] = lambda path: None,
    output_readers: Sequence[Reader] = (),
) -> list[UnitLayer]:
    """Return the hidden units behind those of ``activations`` that lie in an ``nn.Sequential`` of ``module``, in order.

    Args:
        module: Module that they are looked for in.
        path: Its dotted name.
        activations: Hidden activation layers.
        target_of: Gives a layer's twin in a target network by the layer's dotted name, if it has one.
        output_readers: Who reads the output of ``module``: the readers of units that it ends in.

    Raises:
        UserError: When nothing makes the units, or they cannot be followed to the layers that do or that read them.
    """
    wanted = {id(layer) for layer in activations}
    return [
        _unit_layer(chain, index, target_of, output_readers)
        for chain in chains(module, path)
        for index, (_, layer) in enumerate(chain)
        if id(layer) in wanted
    ]


def chains(module: nn.Module, path: str) -> Iterator[list[Leaf]]:
    """Yield the leaves of every outermost ``nn.Sequential`` in ``module``, and of those inside their leaves.

    A residual block is a leaf of what it lies in, and a chain of its own.
    """
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
        if isinstance(child, nn.Sequential) and not isinstance(child, Residual):
            yield from _leaves(child, f"{path}.{name}")
        else:
            yield f"{path}.{name}", child


def layers_into_streams(module: nn.Module) -> list[nn.Module]:
    """Return the layers of ``module`` whose output a residual block adds to: a stream, and no units of their own.

    A unit's outgoing weights would be those of every layer that reads the stream, which are the outgoing weights of
    all blocks before as well.
    """
    return [
        layer
        for chain in chains(module, "")
        for (_, layer), (_, follower) in itertools.pairwise(chain)
        if isinstance(follower, Residual)
    ]


def _unit_layer(
    chain: Sequence[Leaf],
    index: int,
    target_of: Callable[[str], nn.Module | None],
    output_readers: Sequence[Reader],
) -> UnitLayer:
    name, activation = chain[index]
    before = _until_weights(chain[:index][::-1], (*OF_THE_UNITS, nn.Identity), name)
    after = _until_weights(chain[index + 1 :], (nn.Identity, nn.Flatten, Nudge), name)
    if not before:
        raise UserError(f"no Linear or Conv2d layer makes the units of {name!r}")
    makers = [before[-1], *(leaf for leaf in before[:-1] if isinstance(leaf[1], OF_THE_UNITS))]
    readers = [Reader(layer, layer.weight.shape[1]) for layer in _with_twins(after[-1:], target_of)]
    twins = tuple(twin for path, _ in makers if (twin := target_of(path)) is not None)
    return UnitLayer(name, activation, tuple(layer for _, layer in makers), twins, tuple(readers or output_readers))


def _until_weights(leaves: Sequence[Leaf], transparent: tuple[type, ...], name: str) -> list[Leaf]:
    """Return the leaves up to the first Linear or Conv2d; none where the chain ends before."""
    for index, (path, layer) in enumerate(leaves):
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            return list(leaves[: index + 1])
        if not isinstance(layer, transparent):
            raise UserError(f"cannot follow the units of {name!r} through {path!r}, a {type(layer).__name__}")
    return []


def _with_twins(leaves: Sequence[Leaf], target_of: Callable[[str], nn.Module | None]) -> list[Any]:
    layers = [layer for _, layer in leaves]
    return layers + [twin for path, _ in leaves if (twin := target_of(path)) is not None]
