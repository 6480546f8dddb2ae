"""Prune the smallest weights, more of them as training goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from plasticity_rl.agents.base import RLModule
from plasticity_rl.callback import ActsAtEvents, Mutation
from plasticity_rl.callback.architecture import Architecture, with_twin
from plasticity_rl.errors import at_least, one_of, within
from plasticity_rl.nn.layers import weight_layers
from plasticity_rl.nn.weight_transforms import GrowingMask, add_transform, masks_of, prune_again
from plasticity_rl.surgery import clear_elements, erdos_renyi_densities, largest_mask, polynomial_sparsity

DISTRIBUTIONS = ("erdos_renyi", "uniform")


class GradualPruning(ActsAtEvents, Architecture):
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
        Eq. 1: sparsity 0.95, from 20 % to 80 % of training. Period 1000 and Erdős-Rényi densities are those of the
        library that they used (JaxPruner); their networks are ResNets three times as wide, on Atari.
    Differences from the original: the ramp follows env frames, the mask is renewed every so many updates. They prune
        value-based agents and SAC; which modules of another agent, the source does not say: by default all networks.
        Optimizer moments of pruned weights are cleared at once, where there they fade.

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
    stage = "weights"
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
        super().__init__(modules=modules)
        within("GradualPruning.sparsity", sparsity, "[0, 1)", ": the share of weights that is pruned in the end")
        at_least("GradualPruning.start_frame", start_frame, 0)
        at_least("GradualPruning.end_frame", end_frame, start_frame, " (start_frame), in env frames")
        one_of("GradualPruning.distribution", distribution, DISTRIBUTIONS)
        self.sparsity, self.distribution = sparsity, distribution
        self.start_frame, self.end_frame, self.every_n_updates = start_frame, end_frame, every_n_updates
        self.events = self.period_in_updates(every_n_updates)
        self._reached = 0.0  # of the way to the final sparsity of every layer

    # ---- where: the layers, and how much each loses

    def _paths(self, agent: RLModule) -> list[str]:
        return list(weight_layers({name: agent.module(name) for name in self.modules})) if self.sparsity else []

    def claims(self, agent: RLModule) -> frozenset[str]:
        """Return the layers that it prunes."""
        return frozenset(f"prune {path} gradually" for path in self._paths(agent))

    def mutates(self, agent: RLModule) -> Mutation:
        """Weights of the layers and of their twins, their masks, and the optimizer slots of the layers."""
        layers = {path: with_twin(agent, path) for path in self._paths(agent)}
        weights = [layer.get_parameter("weight") for both in layers.values() for layer in both]
        masks = [mask.mask for both in layers.values() for layer in both for mask in _own(layer)]
        online = [both[0].get_parameter("weight") for both in layers.values()]
        return Mutation(
            parameters=_names(agent.named_parameters(), weights),
            optimizer_slots=_names(agent.named_parameters(), online),
            buffers=_names(agent.named_buffers(), masks),
        )

    def build(self, agent: RLModule) -> None:
        """Give every layer and its twin a mask of ones."""
        for path in self._paths(agent):
            for layer in with_twin(agent, path):
                weight = layer.get_parameter("weight")
                add_transform(layer, GrowingMask(torch.ones_like(weight, dtype=torch.bool)))

    def _final_sparsities(self, weights: Mapping[str, Tensor]) -> dict[str, float]:
        if self.distribution == "uniform":
            return dict.fromkeys(weights, self.sparsity)
        shapes = {path: tuple(weight.shape) for path, weight in weights.items()}
        return {path: 1.0 - share for path, share in erdos_renyi_densities(shapes, 1.0 - self.sparsity).items()}

    # ---- when: at a period, while the ramp has grown since

    def now(self, agent: RLModule) -> int:
        """Return the number of the update that now starts, counted from 1."""
        return agent.num_updates + 1

    def _ramp(self, agent: RLModule) -> float:
        """Return how much of the final sparsity is due by now, in [0, 1]."""
        if not self.sparsity or agent.env_frames < self.start_frame:
            return 0.0
        length = self.end_frame - self.start_frame
        progress = min((agent.env_frames - self.start_frame) / length, 1.0) if length else 1.0
        return polynomial_sparsity(progress, 1.0)

    def moves_weights(self, agent: RLModule) -> bool:
        """Return whether more is to be pruned now."""
        return super().moves_weights(agent) and self._ramp(agent) > self._reached

    def on_update_start(self, agent: RLModule) -> None:
        """Prune more where the period is over and the ramp has grown since."""
        if self.events.fire(self.now(agent)) and self._ramp(agent) > self._reached:
            agent.log_event(self.name, self.act(agent))

    def act(self, agent: RLModule) -> str:
        """Prune every layer up to where the ramp is now."""
        self._reached = self._ramp(agent)
        layers = {path: agent.module(path) for path in self._paths(agent)}
        weights = {path: layer.get_parameter("weight") for path, layer in layers.items()}
        pruned: dict[str, int] = {}
        for path, final in self._final_sparsities(weights).items():
            pruned[path] = round(self._reached * final * weights[path].numel())
            _prune(agent, path, weights[path].numel() - pruned[path])
        shares = {}
        for name in self.modules:
            own = [path for path in layers if f"{path}.".startswith(f"{name}.")]
            shares[name] = sum(pruned[path] for path in own) / max(sum(weights[path].numel() for path in own), 1)
        agent.log_scalars({f"intervention/{self.name}/sparsity/{name}": share for name, share in shares.items()})
        parts = ", ".join(f"{share:.1%} of {name}" for name, share in shares.items())
        return f"pruned so far: {parts} at frame {agent.env_frames}"

    def tags(self) -> frozenset[str]:
        """Return one tag for each module."""
        return frozenset(f"intervention/{self.name}/sparsity/{name}" for name in self.modules if self.sparsity)

    def state_dict(self) -> dict[str, Any]:
        """Return the schedule, and how much of the final sparsity was reached."""
        return {**super().state_dict(), "reached": self._reached}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        super().load_state_dict(state_dict)
        self._reached = state_dict["reached"]


@torch.no_grad()
def _prune(agent: RLModule, path: str, kept: int) -> None:
    """Keep the ``kept`` largest weights of a layer, and the same ones of its twin."""
    online, *twins = with_twin(agent, path)
    weight, allowed = online.get_parameter("weight"), torch.ones((), dtype=torch.bool)
    for other in masks_of(online):
        allowed = allowed.to(other.mask.device) & other.mask
    largest = largest_mask(weight, kept, allowed.expand_as(weight))
    for layer in (online, *twins):
        for mask in _own(layer):
            mask.prune(largest.to(mask.mask.device))
        prune_again(layer)
    optimizer = agent.optimizer_of(weight)
    if optimizer is not None:
        clear_elements(optimizer, weight, ~largest)


def _own(layer: nn.Module) -> list[GrowingMask]:
    return [mask for mask in masks_of(layer) if isinstance(mask, GrowingMask)]


def _names(named: Any, wanted: Sequence[Tensor]) -> frozenset[str]:
    ids = {id(tensor) for tensor in wanted}
    return frozenset(name for name, tensor in named if id(tensor) in ids)
