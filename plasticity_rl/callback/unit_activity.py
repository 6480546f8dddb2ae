"""Read hidden activations on the training batch, during an update and without a forward pass of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from plasticity_rl.errors import UserError
from plasticity_rl.measures import active_and_total
from plasticity_rl.nn.layers import COMPUTES, EVERYWHERE, Part

if TYPE_CHECKING:
    from plasticity_rl.agents.base import RLModule

Counts = dict[str, dict[str, tuple[Tensor, int]]]
"""Module -> layer -> (number of elements above zero, number of elements)."""


class TrainingActivations:
    """Reads the hidden activation layers of modules for the time of one update.

    Each layer is read at its first pass with gradient: the encoder on the current observations, critic and actor each
    in their own loss. Passes without gradient are targets and acting, later ones belong to another module's loss; those
    in evaluation mode are an intervention that looks for itself at the start of the update. Networks that are compiled
    (``model.compile``) run uncompiled meanwhile, which rounds otherwise: the run then differs from one without it.

    Args:
        modules: Modules by dotted name.
        read: What is kept of a layer's output.
        with_gradient: Whether ``read`` gets the output as it is, part of the graph, and not detached.
        parts: Which layers count, see :mod:`plasticity_rl.nn.layers`, at the end of the update.
    """

    def __init__(
        self,
        modules: Sequence[str],
        read: Callable[[Tensor], Any],
        *,
        with_gradient: bool = False,
        parts: Collection[Part] = COMPUTES,
    ) -> None:
        self.modules, self.read, self.with_gradient, self.parts = list(modules), read, with_gradient, parts
        self._agent: RLModule | None = None
        self._mode = True
        self._handles: list[RemovableHandle] = []
        self._read: dict[str, dict[str, Any]] = {}

    def refuse_unknown(self, agent: RLModule, option: str) -> None:
        """Raise UserError when a module does not exist or has no hidden units."""
        for name in self.modules:
            if not agent.activation_layers(name):
                raise UserError(f"{option}: {name!r} has no hidden ReLU layer to count units of")

    def start(self, agent: RLModule) -> None:
        """Hook the layers; call before the update."""
        self._read, self._agent, self._mode = {name: {} for name in self.modules}, agent, agent.training
        for name in self.modules:
            # Those that wait as well: an injection later in this start of the update lets them take part.
            for layer_name, layer in agent.activation_layers(name, EVERYWHERE).items():
                self._handles.append(layer.register_forward_hook(self._hook(self._read[name], layer_name)))

    def stop(self) -> dict[str, dict[str, Any]]:
        """Remove the hooks and return what was read: module -> layer; empty without a start. Call after the update."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        read, self._read, agent, self._agent = self._read, {}, self._agent, None
        if agent is None:
            return {}
        counting = {name: agent.activation_layers(name, self.parts) for name in read}
        return {name: {path: own[path] for path in counting[name] if path in own} for name, own in read.items()}

    def _hook(self, kept: dict[str, Any], layer: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def keep(_: nn.Module, __: Any, output: Tensor) -> None:
            trains = self._agent is not None and self._agent.training == self._mode
            if torch.is_grad_enabled() and trains and layer not in kept:
                kept[layer] = self.read(output if self.with_gradient else output.detach())

        return keep


class ActiveUnitCounter(TrainingActivations):
    """Counts active units; ``stop`` returns :data:`Counts`.

    Args:
        modules: Modules by dotted name.
        parts: Which layers count, as of :class:`TrainingActivations`.
    """

    def __init__(self, modules: Sequence[str], parts: Collection[Part] = COMPUTES) -> None:
        super().__init__(modules, active_and_total, parts=parts)
