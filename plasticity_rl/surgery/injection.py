"""Heads to which plasticity can be injected: fresh weights that learn, without a change of the output."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from plasticity_rl.nn.layers import Part
from plasticity_rl.nn.noisy import NoisyLinear
from plasticity_rl.nn.weight_transforms import restart_estimates
from plasticity_rl.surgery.reinit import LayerInit, reinitialize


class InjectableHead(nn.Sequential):
    """A head ``h`` that becomes ``h(x) + sum_i (added_i(x) - removed_i(x))``, one pair per injection so far.

    ``added_i`` and ``removed_i`` start with the same fresh weights, so an injection leaves the output as it is (with
    noisy layers too: a pair has the same noise). After it ``added_i`` alone is trained; ``h``, all ``removed`` and all
    earlier ``added`` are frozen, and pass gradient on to what lies before them. The children of the original head keep
    their names. How many injections there were is part of the ``state_dict``.

    Made from a plain ``nn.Sequential`` by :func:`make_injectable`.

    Source:
        Nikishin et al. 2023 (arXiv 2305.15555), Eq. 2.
    """

    injected: nn.ModuleList
    num_injections: int
    trains: bool

    def forward(self, x: Tensor) -> Tensor:
        """Sum the head and the pairs that were injected so far."""
        output = x
        for name, layer in self.named_children():
            if name != "injected":
                output = layer(output)
        for pair in list(self.injected)[: self.num_injections]:
            _share_noise(pair["added"], pair["removed"])  # type: ignore[index]
            output = output + (pair["added"](x) - pair["removed"](x))  # type: ignore[index]
        return output

    def parts_of_children(self) -> dict[str, Part]:
        """Return which part the layers of the head and the pairs play; see :data:`plasticity_rl.nn.layers.Part`."""
        parts: dict[str, Part] = {}
        for name, _ in self.named_children():
            if name != "injected":
                parts[name] = "old" if self.num_injections else "own"
        for index in range(len(self.injected)):
            waits, learns = index >= self.num_injections, index == self.num_injections - 1
            parts[f"injected.{index}.added"] = "waiting" if waits else "added" if learns else "superseded"
            parts[f"injected.{index}.removed"] = "waiting" if waits else "subtracted"
        return parts

    def inject(self) -> None:
        """Freeze what learned so far and let the next fresh pair take part."""
        if self.num_injections >= len(self.injected):
            raise RuntimeError(f"there are only {len(self.injected)} pairs to inject")
        self.num_injections += 1
        self.mark_trainable()

    def mark_trainable(self) -> None:
        """Let gradients reach the part that learns, and no other."""
        for name, layer in self.named_children():
            if name != "injected":
                layer.requires_grad_(self.trains and self.num_injections == 0)
        for index, pair in enumerate(self.injected, start=1):
            pair["added"].requires_grad_(self.trains and index == self.num_injections)  # type: ignore[index]
            pair["removed"].requires_grad_(False)  # type: ignore[index]

    def get_extra_state(self) -> Tensor:
        """Return the number of injections so far."""
        return torch.tensor(self.num_injections)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore it, and what is frozen with it."""
        self.num_injections = int(state)
        self.mark_trainable()


def _share_noise(added: nn.Module, removed: nn.Module) -> None:
    """Let noisy layers of a pair have the same noise, so that what the two have in common cancels with it too."""
    others = dict(removed.named_modules())
    for name, one in added.named_modules():
        if isinstance(one, NoisyLinear) and isinstance(other := others.get(name), NoisyLinear):
            other.noise = one.noise


def make_injectable(
    head: nn.Module, twin: nn.Module | None, num: int, init_layer: LayerInit, generator: torch.Generator
) -> None:
    """Give ``head`` and its ``twin`` in the target network ``num`` pairs to inject, in place.

    Args:
        head: A plain ``nn.Sequential``.
        twin: The same in the target network, or None.
        num: Number of injections that there will be.
        init_layer: The agent's own initialisation of one layer.
        generator: CPU generator of the fresh weights.

    Raises:
        TypeError: When the head is no plain ``nn.Sequential``.
    """
    if type(head) is not nn.Sequential:
        raise TypeError(f"cannot inject into a {type(head).__name__}")
    pairs = nn.ModuleList()
    for _ in range(num):
        fresh = copy.deepcopy(head)
        reinitialize(fresh, init_layer, generator)
        restart_estimates(fresh)  # they were those of the head
        pairs.append(nn.ModuleDict({"added": fresh, "removed": copy.deepcopy(fresh)}))
    for sequential, trains in [(head, True), *([(twin, False)] if twin is not None else [])]:
        sequential.__class__ = InjectableHead
        assert isinstance(sequential, InjectableHead)
        sequential.injected = copy.deepcopy(pairs)
        sequential.num_injections, sequential.trains = 0, trains
        sequential.mark_trainable()
