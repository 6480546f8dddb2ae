"""Concatenated ReLU instead of ReLU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from plasticity_rl.agents.base import RLModule
from plasticity_rl.callback.architecture import Architecture, put, resize_units
from plasticity_rl.errors import one_of
from plasticity_rl.nn.activations import CReLU as CReLUActivation

KEEP = ("units", "inputs")


class CReLU(Architecture):
    """Replace every hidden activation of the modules by ``[ReLU(x), ReLU(-x)]``.

    A layer then has two outputs per unit, one of which is active at any time: the fraction of active units is pinned
    at 0.5 by construction, so watch something else beside it; interventions that act on it are refused. Dormancy is
    that of units, by the mean over both outputs, for probes as for interventions.

    Mutates: before training, the hidden activations of ``modules``, and the layers whose number of units or inputs
        changes with them, which are drawn anew as the agent initialises a layer of that shape; their target. For the
        encoder the trunks of all that read it change.
    Logs: nothing of its own.
    Reference: Abbas et al. 2023 (arXiv 2303.07507), section 5; in the critic as in Ma et al. 2024 (arXiv 2310.07418),
        Appendix B.3, who do not state the width.
    Differences from the original: none known.

    Args:
        modules: Modules by dotted name: ``encoder``, ``actor``, ``critic``, or a part such as ``critic.Q1``;
            None for the module of the values.
        keep: ``units`` keeps the number of units of every layer and doubles what the next one reads; ``inputs`` keeps
            what the next one reads and halves the units.

    Raises:
        UserError: When ``keep`` is something else.
    """

    reads = frozenset()
    writes = frozenset({"architecture", "activations"})
    cuda_graph = "stays"
    stage = "activations"
    example_arguments: ClassVar[Mapping[str, Any]] = {"modules": ["critic"]}

    def __init__(self, *, modules: Sequence[str] | None = None, keep: Literal["units", "inputs"] = "units") -> None:
        super().__init__(modules=modules, published=("critic",))
        one_of("CReLU.keep", keep, KEEP)
        self.keep = keep

    def default_modules(self, agent: RLModule) -> list[str]:
        """Return the module of the values."""
        return [agent.value_module]

    @property
    def name(self) -> str:
        """``crelu``, one word as in the papers."""
        return "crelu"

    def claims(self, agent: RLModule) -> frozenset[str]:
        """Return the activations that it replaces."""
        return frozenset(f"replace the activation {layer.name}" for layer in self.units(agent))

    def pins(self, agent: RLModule) -> Mapping[str, Mapping[str, str]]:
        """Return what its activations pin."""
        return {layer.name: CReLUActivation.pinned for layer in self.units(agent)}

    def build(self, agent: RLModule) -> None:
        """Replace the activations and fit the layers around them."""
        layers = self.units(agent)
        new_size = (lambda size: size) if self.keep == "units" else (lambda size: -(-size // 2))
        resize_units(agent, layers, new_size, copies=CReLUActivation.copies)
        for layer in layers:
            put(agent, layer.name, CReLUActivation())
