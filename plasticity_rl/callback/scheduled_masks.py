"""What interventions share that mask the weights of layers by a schedule in env frames, and keep them masked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from plasticity_rl.agents.base import RLModule
from plasticity_rl.agents.hooks import Mutation
from plasticity_rl.callback.architecture import Architecture, with_twin
from plasticity_rl.callback.scheduled import ActsAtEvents
from plasticity_rl.errors import at_least, one_of
from plasticity_rl.nn.layers import weight_layers
from plasticity_rl.nn.weight_transforms import FixedMask, masks_of, prune_again
from plasticity_rl.surgery import clear_elements, erdos_renyi_densities

DISTRIBUTIONS = ("erdos_renyi", "uniform")


class ScheduledMasks(ActsAtEvents, Architecture):
    """Gives the weights of layers masks in ``build``, and moves these at a period while a schedule goes on.

    Args:
        modules: Modules by dotted name; None for all networks of the agent.
        start_frame: Env frame at which the schedule begins, >= 0.
        end_frame: Env frame at which it ends, >= ``start_frame``.
        every_n_updates: Period in gradient updates.
        distribution: ``erdos_renyi`` or ``uniform``: how sparsity is shared out among layers.

    Raises:
        UserError: When an argument is out of range.
    """

    stage = "weights"
    mask_kind: ClassVar[type[FixedMask]]
    """Class of its masks, of which a layer may have one."""

    def __init__(
        self,
        *,
        modules: Sequence[str] | None,
        start_frame: int,
        end_frame: int,
        every_n_updates: int,
        distribution: str,
    ) -> None:
        super().__init__(modules=modules)
        option = type(self).__name__
        at_least(f"{option}.start_frame", start_frame, 0)
        at_least(f"{option}.end_frame", end_frame, start_frame, " (start_frame), in env frames")
        one_of(f"{option}.distribution", distribution, DISTRIBUTIONS)
        self.start_frame, self.end_frame, self.every_n_updates = start_frame, end_frame, every_n_updates
        self.distribution = distribution
        self.events = self.period_in_updates(every_n_updates)
        self._reached = 0.0  # of the way from the first masks to the last ones

    def masks_anything(self) -> bool:
        """Return whether there is anything to be masked; if not, layers stay what they are."""
        raise NotImplementedError

    def way(self, progress: float) -> float:
        """Return the part of the way to the last masks that is due at a ``progress`` in [0, 1] of the frames."""
        raise NotImplementedError

    # ---- where

    def paths(self, agent: RLModule) -> list[str]:
        """Return the layers by dotted name."""
        if not self.masks_anything():
            return []
        return list(weight_layers({name: agent.module(name) for name in self.modules}))

    def claims(self, agent: RLModule) -> frozenset[str]:
        """Return the layers that it masks."""
        return frozenset(f"prune {path} gradually" for path in self.paths(agent))

    def mutates(self, agent: RLModule) -> Mutation:
        """Weights of the layers and of their twins, their masks, and the optimizer slots of the layers."""
        layers = {path: with_twin(agent, path) for path in self.paths(agent)}
        weights = [layer.get_parameter("weight") for both in layers.values() for layer in both]
        masks = [mask.mask for both in layers.values() for layer in both for mask in self.own_masks(layer)]
        online = [both[0].get_parameter("weight") for both in layers.values()]
        return Mutation(
            parameters=_names(agent.named_parameters(), weights),
            optimizer_slots=_names(agent.named_parameters(), online),
            buffers=_names(agent.named_buffers(), masks),
        )

    def own_masks(self, layer: nn.Module) -> list[FixedMask]:
        """Return the masks of a layer that are its own and no other intervention's."""
        return [mask for mask in masks_of(layer) if type(mask) is self.mask_kind]

    def sparsities(self, weights: Mapping[str, Tensor], sparsity: float) -> dict[str, float]:
        """Return the share of each layer's weights that is masked at a sparsity over all of them."""
        if self.distribution == "uniform":
            return dict.fromkeys(weights, sparsity)
        shapes = {path: tuple(weight.shape) for path, weight in weights.items()}
        return {path: 1.0 - share for path, share in erdos_renyi_densities(shapes, 1.0 - sparsity).items()}

    # ---- when: at a period, while the way has gone on since

    def now(self, agent: RLModule) -> int:
        """Return the number of the update that now starts, counted from 1."""
        return agent.num_updates + 1

    def due(self, agent: RLModule) -> float:
        """Return the part of the way that is due by now, in [0, 1]."""
        if not self.masks_anything() or agent.env_frames < self.start_frame:
            return 0.0
        length = self.end_frame - self.start_frame
        return self.way(min((agent.env_frames - self.start_frame) / length, 1.0) if length else 1.0)

    def moves_weights(self, agent: RLModule) -> bool:
        """Return whether masks are to move now."""
        return super().moves_weights(agent) and self.due(agent) > self._reached

    def on_update_start(self, agent: RLModule) -> None:
        """Move the masks where the period is over and the way has gone on since."""
        if self.events.fire(self.now(agent)) and self.due(agent) > self._reached:
            self.act_and_log(agent)

    def of_modules(self, numbers: Mapping[str, int]) -> dict[str, int]:
        """Return numbers of layers summed up by module."""
        return {
            name: sum(number for path, number in numbers.items() if f"{path}.".startswith(f"{name}."))
            for name in self.modules
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the schedule, and how far the masks have come."""
        return {**super().state_dict(), "reached": self._reached}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        super().load_state_dict(state_dict)
        self._reached = state_dict["reached"]


def allowed_by_others(layer: nn.Module, own: Sequence[FixedMask]) -> Tensor:
    """Return which weights of a layer the masks that are not ``own`` leave in use, bool of the weight's shape."""
    weight = layer.get_parameter("weight")
    allowed = torch.ones_like(weight, dtype=torch.bool)
    for mask in masks_of(layer):
        if all(mask is not one for one in own):
            allowed &= mask.mask
    return allowed


@torch.no_grad()
def clear_pruned(agent: RLModule, path: str, pruned: Tensor) -> None:
    """Set weights of a layer and its twin that their masks hold back to zero, and moments of ``pruned`` ones too.

    Args:
        agent: Edited in place.
        path: Dotted name of the layer.
        pruned: Bool, of the weight's shape.
    """
    for layer in with_twin(agent, path):
        prune_again(layer)
    weight = agent.module(path).get_parameter("weight")
    optimizer = agent.optimizer_of(weight)
    if optimizer is not None:
        clear_elements(optimizer, weight, pruned)


def _names(named: Iterable[tuple[str, Tensor]], wanted: Sequence[Tensor]) -> frozenset[str]:
    ids = {id(tensor) for tensor in wanted}
    return frozenset(name for name, tensor in named if id(tensor) in ids)
