"""Count active units on the training batch, during an update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from plasticity_rl.errors import UserError
from plasticity_rl.measures import active_and_total

if TYPE_CHECKING:
    from plasticity_rl.rl_module import RLModule

Counts = dict[str, dict[str, Any]]
"""Module -> layer -> what ``count`` returned; by default (number of elements above zero, number of elements)."""


class ActiveUnitCounter:
    """Reads the hidden activation layers of modules for the time of one update.

    Each layer is read at its first pass with gradient: the encoder on the current observations, critic and actor each
    in their own loss. Passes without gradient are targets and acting, later ones belong to another module's loss.

    Args:
        modules: Modules by dotted name.
        count: What to keep of the output of a layer; it must not wait for a GPU.
    """

    def __init__(self, modules: Sequence[str], count: Callable[[Tensor], Any] = active_and_total) -> None:
        self.modules, self._count = list(modules), count
        self._handles: list[RemovableHandle] = []
        self._counts: Counts = {}

    def refuse_unknown(self, agent: RLModule, option: str) -> None:
        """Raise UserError when a module does not exist or has no hidden units."""
        for name in self.modules:
            if not agent.activation_layers(name):
                raise UserError(f"{option}: {name!r} has no hidden ReLU layer to count units of")

    def start(self, agent: RLModule) -> None:
        """Hook the layers; call before the update."""
        self._counts = {name: {} for name in self.modules}
        for name in self.modules:
            for layer_name, layer in agent.activation_layers(name).items():
                hook = _counter(self._count, self._counts[name], layer_name)
                self._handles.append(layer.register_forward_hook(hook))

    def stop(self) -> Counts:
        """Remove the hooks and return the counts; call after the update."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        return self._counts


def _counter(
    count: Callable[[Tensor], Any], counts: dict[str, Any], layer: str
) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(_: nn.Module, __: Any, output: Tensor) -> None:
        if torch.is_grad_enabled() and layer not in counts:
            counts[layer] = count(output)

    return hook
