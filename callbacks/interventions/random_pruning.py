"""A random part of the weights, fixed at zero from the start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch

from plasticity_rl.agents.base import RLModule
from plasticity_rl.callback.architecture import Architecture, place_generator, with_twin
from plasticity_rl.errors import one_of, within
from plasticity_rl.nn.layers import weight_layers
from plasticity_rl.nn.weight_transforms import FixedMask, add_transform
from plasticity_rl.surgery import erdos_renyi_densities, random_mask

DISTRIBUTIONS = ("erdos_renyi", "uniform")


class RandomPruning(Architecture):
    """Fix a random share of the weights of every layer at zero before training: static sparsity.

    Mutates: before training, the pruned weights of ``modules`` and of their target (to zero, and from then on without
        effect and gradient; fresh weights of a reset or a recycled unit are zero there too). Biases and norms are left
        alone. Probes and penalties see the weights in use.
    Logs: nothing of its own.
    Reference: Ma et al. 2025 (arXiv 2506.17204), one-shot random pruning; Erdős-Rényi densities as in Mocanu et al.
        2018 (arXiv 1707.04780) and, for kernels, Evci et al. 2020 (arXiv 1911.11134).
    Differences from the original: the default sparsity is this project's. Kept weights are not rescaled.

    Args:
        modules: Modules by dotted name: ``encoder``, ``actor``, ``critic``, or a part such as ``critic.Q1``;
            None for all networks of the agent.
        sparsity: Share of all weights of the modules that is pruned, in [0, 1).
        distribution: ``erdos_renyi`` keeps more of small layers, ``uniform`` the same share of every layer.

    Raises:
        UserError: When an argument is out of range.
    """

    reads = frozenset()
    writes = frozenset({"mask"})
    cuda_graph = "stays"
    stage = "masks"
    example_arguments: ClassVar[Mapping[str, Any]] = {"modules": ["actor", "critic"], "sparsity": 0.5}

    def __init__(
        self,
        *,
        modules: Sequence[str] | None = None,
        sparsity: float = 0.8,
        distribution: Literal["erdos_renyi", "uniform"] = "erdos_renyi",
    ) -> None:
        super().__init__(modules=modules)
        within("RandomPruning.sparsity", sparsity, "[0, 1)", ": the share of weights that is pruned")
        one_of("RandomPruning.distribution", distribution, DISTRIBUTIONS)
        self.sparsity, self.distribution = sparsity, distribution

    def _paths(self, agent: RLModule) -> list[str]:
        return list(weight_layers({name: agent.module(name) for name in self.modules}))

    def claims(self, agent: RLModule) -> frozenset[str]:
        """Return the layers that it prunes."""
        return frozenset(f"prune {path}" for path in self._paths(agent))

    @torch.no_grad()
    def build(self, agent: RLModule) -> None:
        """Draw the masks, the same for online network and target."""
        weights = {path: agent.module(path).get_parameter("weight") for path in self._paths(agent)}
        density = 1.0 - self.sparsity
        if self.distribution == "uniform":
            densities = dict.fromkeys(weights, density)
        else:
            densities = erdos_renyi_densities({path: tuple(w.shape) for path, w in weights.items()}, density)
        for path, weight in weights.items():
            mask = random_mask(weight.shape, densities[path], place_generator(agent, f"random_pruning/{path}"))
            for layer in with_twin(agent, path):
                own = layer.get_parameter("weight")
                own.mul_(mask.to(own.device))
                add_transform(layer, FixedMask(mask.to(own.device, copy=True)))
