"""One forward pass that records the outputs of all hidden layers and leaves the agent as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from tensordict import TensorDictBase

    from plasticity_rl.agents.base import RLModule


class HiddenActivation(nn.Module):
    """Base of hidden activations other than ReLU, by which probes and interventions find them."""

    copies: int = 1
    """Outputs per unit, laid out copy by copy along dimension 1."""
    pinned: Mapping[str, str] = {}
    """Quantities (see ``Intervention.acts_on``) that say nothing about the network behind it, each with the reason."""

    def reset_parameters(self) -> None:
        """Set parameters, if there are any, to their first values."""


@dataclass(frozen=True)
class Pass:
    """What one forward pass gave.

    Attributes:
        activations: Detached outputs of the hidden activation layers by layer, ``(B, units)`` or ``(B, channels,
            height, width)``; the first output of a layer that runs more than once. A layer that does not run (a head
            in waiting) is left out.
        outputs: What ``agent.forward_all`` returned, without gradient.
    """

    activations: dict[nn.Module, Tensor]
    outputs: dict[str, Tensor]


@torch.no_grad()
def record_pass(agent: RLModule, batch: TensorDictBase) -> Pass:
    """Run every module once on ``batch`` and return what its hidden activation layers and the modules put out.

    Modules are in evaluation mode meanwhile, so that nothing is drawn (dropout) and no buffer moves (batch norm).
    Afterwards every mode is as before, and no hook is left.

    Args:
        agent: Agent whose ``activation_layers`` of all ``module_names`` are read.
        batch: ``[B]`` with the keys of a training batch.
    """
    recorded: dict[nn.Module, Tensor] = {}

    def record(layer: nn.Module, _: Any, output: Tensor) -> None:
        # A layer that follows may work in place (ReLU(inplace=True)), so the output itself is not safe to keep.
        recorded.setdefault(layer, output.detach().clone())

    layers = {layer for name in agent.module_names for layer in agent.activation_layers(name).values()}
    with evaluation_mode(agent):
        handles = [layer.register_forward_hook(record) for layer in layers]
        try:
            outputs = agent.forward_all(batch)
        finally:
            for handle in handles:
                handle.remove()
    return Pass(recorded, outputs)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put ``module`` and all its children into evaluation mode; afterwards each is as it was."""
    training = [child for child in module.modules() if child.training]
    try:
        for child in training:
            child.training = False
        yield
    finally:
        for child in training:
            child.training = True
