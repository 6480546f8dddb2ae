"""Prune the smallest weights, more of them as training goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch

from plasticity_rl.agents.base import RLModule
from plasticity_rl.callback.architecture import with_twin
from plasticity_rl.callback.scheduled_masks import ScheduledMasks, allowed_by_others, clear_pruned
from plasticity_rl.errors import within
from plasticity_rl.nn.weight_transforms import GrowingMask, add_transform
from plasticity_rl.surgery import largest_mask, polynomial_sparsity


class GradualPruning(ScheduledMasks):
    """Prune the weights of every layer by magnitude, along a cubic ramp from none to ``sparsity`` of them.

    With progress p from 0 at ``start_frame`` to 1 at ``end_frame`` the share ``s * (1 - (1 - p)^3)`` of a layer's
    weights is pruned, s being what the layer loses in the end: after every ``every_n_updates`` updates those of the
    smallest magnitude, beside those that are pruned already. A pruned weight stays pruned: fresh weights of a reset or
    of a recycled unit are zero there too. As those of a recycled unit that are read start at zero, they are among the
    next to go where they do not grow until then. Beside ``RandomPruning`` its zeros count as pruned.

    Mutates: before training, layers of ``modules`` and of their target get a mask that holds nothing back; at an event,
        the mask, the weights pruned by it (to zero, in the target the same ones, and from then on without effect and
        gradient) and their optimizer moments (to zero; step counts stay). Biases and norms are left alone. Probes and
        penalties see the weights in use. With ``sparsity: 0`` nothing at all.
    Logs: at events ``intervention/gradual_pruning`` (1), ``intervention/gradual_pruning/sparsity/<module>`` (share of
        the module's weights that this has pruned, in [0, 1)) and a line of text.
    Reference: Obando-Ceron et al. 2024 (arXiv 2402.12479), by the schedule of Zhu & Gupta 2017 (arXiv 1710.01878),
        Eq. 1 of both: sparsity 0.95, from 20 % to 80 % of training. Period 1000 and Erdős-Rényi densities are those of
        the library that they used (JaxPruner); their networks are ResNets, mostly three times as wide, on Atari.
    Differences from the original: the ramp follows env frames, the mask is renewed every so many updates. They prune
        value-based agents, SAC and PPO; which modules of another agent, the source does not say: by default all
        networks. Optimizer moments of pruned weights are cleared and stay zero, where there they go on, without effect.

    Args:
        modules: Modules by dotted name: ``encoder``, ``actor``, ``critic``, or a part such as ``critic.Q1``;
            None for all networks of the agent.
        sparsity: Share of all weights of the modules that is pruned in the end, in [0, 1).
        start_frame: Env frame at which pruning begins, >= 0; the default is 20 % of a million.
        end_frame: Env frame from which ``sparsity`` is reached, >= ``start_frame``; the default is 80 % of a million.
        every_n_updates: Period in gradient updates at which more is pruned, in between and once after.
        distribution: ``erdos_renyi`` keeps more of small layers, ``uniform`` the same share of every layer.

    Raises:
        UserError: When an argument is out of range.
    """

    reads = frozenset({"weights"})
    writes = frozenset({"mask", "jump", "optimizer"})
    cuda_graph = "stays"
    mask_kind = GrowingMask
    example_arguments: ClassVar[Mapping[str, Any]] = {
        "modules": ["actor", "critic"],
        "sparsity": 0.5,
        "start_frame": 0,
        "end_frame": 100,
        "every_n_updates": 3,
    }
    inert_arguments: ClassVar[Mapping[str, Any]] = {"sparsity": 0.0}  # type: ignore[assignment]

    def __init__(
        self,
        *,
        modules: Sequence[str] | None = None,
        sparsity: float = 0.95,
        start_frame: int = 200_000,
        end_frame: int = 800_000,
        every_n_updates: int = 1000,
        distribution: Literal["erdos_renyi", "uniform"] = "erdos_renyi",
    ) -> None:
        super().__init__(
            modules=modules,
            start_frame=start_frame,
            end_frame=end_frame,
            every_n_updates=every_n_updates,
            distribution=distribution,
        )
        within("GradualPruning.sparsity", sparsity, "[0, 1)", ": the share of weights that is pruned in the end")
        self.sparsity = sparsity

    def masks_anything(self) -> bool:
        """Return whether anything is pruned in the end."""
        return self.sparsity > 0

    def build(self, agent: RLModule) -> None:
        """Give every layer and its twin a mask of ones."""
        for path in self.paths(agent):
            for layer in with_twin(agent, path):
                weight = layer.get_parameter("weight")
                add_transform(layer, GrowingMask(torch.ones_like(weight, dtype=torch.bool)))

    def way(self, progress: float) -> float:
        """Return the part of what every layer loses that is due by now."""
        return polynomial_sparsity(progress, 1.0)

    def act(self, agent: RLModule) -> str:
        """Prune every layer up to where the ramp is now."""
        self._reached = self.due(agent)
        weights = {path: agent.module(path).get_parameter("weight") for path in self.paths(agent)}
        pruned: dict[str, int] = {}
        for path, final in self.sparsities(weights, self.sparsity).items():
            pruned[path] = round(self._reached * final * weights[path].numel())
            self._prune(agent, path, weights[path].numel() - pruned[path])
        sizes = self.of_modules({path: weight.numel() for path, weight in weights.items()})
        shares = {name: number / max(sizes[name], 1) for name, number in self.of_modules(pruned).items()}
        agent.log_scalars({f"intervention/{self.name}/sparsity/{name}": share for name, share in shares.items()})
        parts = ", ".join(f"{share:.1%} of {name}" for name, share in shares.items())
        return f"pruned so far: {parts} at frame {agent.env_frames}"

    @torch.no_grad()
    def _prune(self, agent: RLModule, path: str, kept: int) -> None:
        """Keep the ``kept`` largest weights of a layer, and the same ones of its twin."""
        online, *twins = with_twin(agent, path)
        largest = largest_mask(online.get_parameter("weight"), kept, allowed_by_others(online, ()))
        for layer in (online, *twins):
            for mask in self.own_masks(layer):
                assert isinstance(mask, GrowingMask)
                mask.prune(largest.to(mask.mask.device))
        clear_pruned(agent, path, ~largest)

    def tags(self) -> frozenset[str]:
        """Return one tag for each module."""
        return frozenset(f"intervention/{self.name}/sparsity/{name}" for name in self.modules if self.sparsity)
