"""Trainable rational functions instead of ReLU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from plasticity_rl.agents.base import RLModule
from plasticity_rl.callback.architecture import Architecture, put
from plasticity_rl.errors import one_of
from plasticity_rl.nn.activations import RATIONAL_COEFFICIENTS, Rational, RationalInit


class RationalActivation(Architecture):
    """Replace every hidden activation of the modules by a trainable rational function, one per layer.

    Ten coefficients a layer, trained by the optimizer of their module and averaged into the target like weights. The
    function follows ReLU only on [-3, 3], so it suits layers behind a norm (``callbacks.LayerNorm``). Fractions of
    active or dormant units do not mean here what they mean for ReLU.

    Mutates: before training, the hidden activations of ``modules`` and of their target. A module that is reset gets its
        first coefficients back.
    Logs: nothing of its own.
    Reference: Delfosse et al. 2024 (arXiv 2102.09407), degrees 5 and 4, "safe" denominator, one function per layer.
    Differences from the original: none known. ``WeightDecay`` leaves the coefficients out.

    Args:
        modules: Modules by dotted name: ``encoder``, ``actor``, ``critic``, or a part such as ``critic.Q1``;
            None for those that put out actions and values.
        init: Function that the first coefficients approximate: ``relu`` or ``leaky_relu`` (slope 0.01).

    Raises:
        UserError: When ``init`` is something else.
    """

    reads = frozenset()
    writes = frozenset({"architecture", "activations"})
    cuda_graph = "stays"
    stage = "activations"
    example_arguments: ClassVar[Mapping[str, Any]] = {"modules": ["critic"]}

    def __init__(self, *, modules: Sequence[str] | None = None, init: RationalInit = "leaky_relu") -> None:
        super().__init__(modules=modules, published=("actor", "critic"))
        one_of("RationalActivation.init", init, RATIONAL_COEFFICIENTS)
        self.init = init

    def default_modules(self, agent: RLModule) -> list[str]:
        """Return the modules that put out actions and values."""
        return agent.heads()

    def _paths(self, agent: RLModule) -> list[str]:
        self.refuse_without_activations(agent)
        paths = [f"{name}.{sub}" for name in self.modules for sub in agent.activation_layers(name)]
        return list(dict.fromkeys(paths))

    def claims(self, agent: RLModule) -> frozenset[str]:
        """Return the activations that it replaces."""
        return frozenset(f"replace the activation {path}" for path in self._paths(agent))

    def build(self, agent: RLModule) -> None:
        """Replace the activations."""
        for path in self._paths(agent):
            put(agent, path, Rational(self.init))
