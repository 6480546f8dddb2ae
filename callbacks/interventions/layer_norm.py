"""Layer normalisation behind every hidden layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from plasticity_rl.agents.base import RLModule
from plasticity_rl.callback.architecture import Architecture, layers_without_norm, put_norm


class LayerNorm(Architecture):
    """Put a layer norm between every hidden linear or convolutional layer and its activation.

    Behind a linear layer it is a ``LayerNorm`` over the units; behind a convolution a ``GroupNorm`` of one group, which
    normalises over channels and space and has one gain and one bias per channel. Layers that already have a norm (the
    trunks of DrQ-v2) and output layers are left alone: a norm over a single value would erase it.

    Mutates: before training, adds norms called ``<layer>_norm`` to ``modules`` and to their target. All other weights
        are those of a run without it.
    Logs: nothing of its own.
    Reference: Ba et al. 2016 (arXiv 1607.06450); after every convolution and linear layer as in Ma et al. 2024 (arXiv
        2310.07418), Appendix B.3, and Lyle et al. 2023 (arXiv 2303.01486).
    Differences from the original: Ma et al. do not say on which side of the activation it stands, nor what it
        normalises over in convolutions.

    Args:
        modules: Modules by dotted name: ``encoder``, ``actor``, ``critic``, or a part such as ``critic.Q1``;
            None for all networks of the agent.
    """

    reads = frozenset()
    writes = frozenset({"architecture"})
    cuda_graph = "stays"
    stage = "norms"
    example_arguments: ClassVar[Mapping[str, Any]] = {"modules": ["critic", "actor"]}

    def __init__(self, *, modules: Sequence[str] | None = None) -> None:
        super().__init__(modules=modules)

    def claims(self, agent: RLModule) -> frozenset[str]:
        """Return the places that it puts a norm at."""
        return frozenset(f"put a norm behind {path}" for path in layers_without_norm(agent, self.modules))

    def build(self, agent: RLModule) -> None:
        """Add the norms."""
        for path in layers_without_norm(agent, self.modules):
            put_norm(agent, path)
