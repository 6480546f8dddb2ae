"""One forward pass that records the outputs of all hidden layers and leaves the agent as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

if TYPE_CHECKING:
    from plasticity_rl.rl_module import RLModule


class HiddenActivation(nn.Module):
    """Base of hidden activations other than ReLU, by which probes and interventions find them."""

    copies: int = 1
    """Outputs per unit, laid out copy by copy along dimension 1."""

    def reset_parameters(self) -> None:
        """Set parameters, if there are any, to their first values."""


@torch.no_grad()
def record_activations(agent: RLModule, batch: TensorDictBase) -> dict[nn.Module, Tensor]:
    """Run every module once on ``batch`` and return what its hidden activation layers put out.

    Modules are in evaluation mode meanwhile, so that nothing is drawn (dropout) and no buffer moves (batch norm).
    Afterwards every mode is as before, and no hook is left.

    Args:
        agent: Agent whose ``activation_layers`` of all ``module_names`` are read.
        batch: ``[B]`` with the keys of a training batch.

    Returns:
        Detached tensors ``(B, units)`` or ``(B, channels, height, width)`` by layer; the first output of a layer that
        runs more than once. A layer that does not run (a head in waiting) is left out.
    """
    recorded: dict[nn.Module, Tensor] = {}

    def record(layer: nn.Module, _: Any, output: Tensor) -> None:
        # A layer that follows may work in place (ReLU(inplace=True)), so the output itself is not safe to keep.
        recorded.setdefault(layer, output.detach().clone())

    layers = {layer for name in agent.module_names for layer in agent.activation_layers(name).values()}
    with _evaluation_mode(agent):
        handles = [layer.register_forward_hook(record) for layer in layers]
        try:
            agent.forward_all(batch)
        finally:
            for handle in handles:
                handle.remove()
    return recorded


@contextmanager
def _evaluation_mode(module: nn.Module) -> Iterator[None]:
    training = [child for child in module.modules() if child.training]
    try:
        for child in training:
            child.training = False
        yield
    finally:
        for child in training:
            child.training = True
