"""Spectral normalisation of chosen layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from plasticity_rl.agents.base import RLModule
from plasticity_rl.agents.jumps import Jump
from plasticity_rl.callback.architecture import Architecture, place_generator, with_twin
from plasticity_rl.nn.layers import weight_layers
from plasticity_rl.nn.weight_transforms import SpectralNormalization, add_transform, restart_estimates


class SpectralNorm(Architecture):
    """Let the linear and convolutional layers of the modules compute with ``W / sigma_max(W)``.

    sigma_max comes from one power iteration per pass in training mode; its gradient is followed.

    Mutates: before training, how the layers of ``modules`` and of their target use their weights; the weights stay
        plain parameters. Probes of weights and penalties see ``W / sigma_max(W)``, the weight in use; what writes
        weights writes ``W``. A buffer per layer, at every pass.
    Logs: nothing of its own.
    Reference: Miyato et al. 2018 (arXiv 1802.05957), Algorithm 1; on the first linear layer of actor and critic as in
        Ma et al. 2024 (arXiv 2310.07418), Appendix B.3.
    Differences from the original: convolution kernels count as ``(out, in * height * width)``, as usual.

    Args:
        modules: Layers, or modules all of whose linear and convolutional layers are meant, by dotted name; None
            for the trunks, and where there are none for the first layer of every network of actions and values.
    """

    reads = frozenset({"weights", "estimates"})
    writes = frozenset({"scale"})
    cuda_graph = "stays"
    stage = "weights"
    example_arguments: ClassVar[Mapping[str, Any]] = {"modules": ["actor.trunk", "critic"]}

    def __init__(self, *, modules: Sequence[str] | None = None) -> None:
        super().__init__(modules=modules, published=("actor.trunk", "critic.trunk"))

    def default_modules(self, agent: RLModule) -> list[str]:
        """Return the trunks, or the first layer of every network of actions and values that has none."""
        chosen: list[str] = []
        for name in agent.heads():
            if hasattr(agent.module(name), "trunk"):
                chosen.append(f"{name}.trunk")
                continue
            parts = agent.value_heads if name == agent.value_module and agent.value_heads else (name,)
            chosen += [next(iter(weight_layers({part: agent.module(part)}))) for part in parts]
        return chosen

    def _paths(self, agent: RLModule) -> list[str]:
        return list(weight_layers({name: agent.module(name) for name in self.modules}))

    def claims(self, agent: RLModule) -> frozenset[str]:
        """Return the layers that it normalises."""
        return frozenset(f"normalise the weight of {path}" for path in self._paths(agent))

    def build(self, agent: RLModule) -> None:
        """Add the transform to every layer and its twin."""
        for path in self._paths(agent):
            for layer in with_twin(agent, path):
                weight = layer.get_parameter("weight")
                add_transform(layer, SpectralNormalization(weight, place_generator(agent, f"spectral_norm/{path}")))

    def on_weights_jumped(self, agent: RLModule, jump: Jump) -> None:
        """Let the estimates catch up with weights that jumped."""
        for path in self._paths(agent):
            online, *targets = with_twin(agent, path)
            if f"{path}.weight" in jump.elements:
                for layer in (online, *targets):
                    restart_estimates(layer)
