"""More units in every hidden layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from plasticity_rl.agents.base import RLModule
from plasticity_rl.callback.architecture import Architecture, resize_units
from plasticity_rl.errors import UserError, at_most


class WiderNetwork(Architecture):
    """Multiply the number of units (channels) of every hidden layer of the modules by ``factor``.

    Mutates: before training, the hidden layers of ``modules`` and all layers that read them, which are drawn anew in
        their new shape; their target. The trunks' width (``feature_dim``) is no hidden layer and stays.
    Logs: nothing of its own.
    Reference: Sokar et al. 2023 (arXiv 2302.12902): factors 2 and 4 hardly change the share of dormant units.
    Differences from the original: initialised as the agent initialises a layer of that shape.

    Args:
        modules: Modules by dotted name: ``encoder``, ``actor``, ``critic``, or a part such as ``critic.Q1``;
            None for all networks of the agent.
        factor: Multiple of the present width, > 0; the result is rounded up.

    Raises:
        UserError: When ``factor`` is not positive.
    """

    reads = frozenset()
    writes = frozenset({"architecture"})
    cuda_graph = "stays"
    stage = "widths"
    example_arguments: ClassVar[Mapping[str, Any]] = {"modules": ["encoder", "critic"], "factor": 1.5}

    def __init__(self, *, modules: Sequence[str] | None = None, factor: float = 2.0) -> None:
        super().__init__(modules=modules)
        if not 0 < factor < math.inf:
            raise UserError(f"WiderNetwork.factor={factor} must be > 0")
        at_most("WiderNetwork.factor", factor, 32, "parameters grow with its square; published: 2 and 4")
        self.factor = factor

    def claims(self, agent: RLModule) -> frozenset[str]:
        """Return the layers that it widens."""
        return frozenset(f"change the width of {layer.name}" for layer in self.units(agent))

    def build(self, agent: RLModule) -> None:
        """Widen the layers and what reads them."""
        resize_units(agent, self.units(agent), lambda size: math.ceil(size * self.factor))
