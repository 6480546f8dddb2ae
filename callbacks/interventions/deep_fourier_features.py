"""Sine and cosine features instead of ReLU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from plasticity_rl.agents.base import RLModule
from plasticity_rl.callback.architecture import Architecture, put, resize_units
from plasticity_rl.nn.activations import SinCos


class DeepFourierFeatures(Architecture):
    """Replace every hidden activation of the modules by ``[sin(x), cos(x)]`` of half as many units.

    Half as many units, so that the next layer reads as many numbers as before. No unit can be dormant: sine and cosine
    are never both near zero, and dormancy is that of units, by the mean over both outputs; interventions that act on
    dormant units are refused.

    Mutates: before training, the hidden activations of ``modules`` and the layers that make their units, which are
        drawn anew with half the units; their target.
    Logs: nothing of its own.
    Reference: Lewandowski et al. 2024 (arXiv 2410.20634), section 5.
    Differences from the original: initialised as the agent initialises a layer of that shape. With an odd number of
        units the larger half is kept, and the next layer is drawn anew as well.

    Args:
        modules: Modules by dotted name: ``encoder``, ``actor``, ``critic``, or a part such as ``critic.Q1``;
            None for those that put out actions and values.
    """

    reads = frozenset()
    writes = frozenset({"architecture", "activations"})
    cuda_graph = "stays"
    stage = "activations"
    example_arguments: ClassVar[Mapping[str, Any]] = {"modules": ["critic"]}

    def __init__(self, *, modules: Sequence[str] | None = None) -> None:
        super().__init__(modules=modules, published=("actor", "critic"))

    def default_modules(self, agent: RLModule) -> list[str]:
        """Return the modules that put out actions and values."""
        return agent.heads()

    def claims(self, agent: RLModule) -> frozenset[str]:
        """Return the activations that it replaces."""
        return frozenset(f"replace the activation {layer.name}" for layer in self.units(agent))

    def pins(self, agent: RLModule) -> Mapping[str, Mapping[str, str]]:
        """Return what its activations pin."""
        return {layer.name: SinCos.pinned for layer in self.units(agent)}

    def build(self, agent: RLModule) -> None:
        """Replace the activations and halve the layers before them."""
        layers = self.units(agent)
        resize_units(agent, layers, lambda size: -(-size // 2), copies=SinCos.copies)
        for layer in layers:
            put(agent, layer.name, SinCos())
