"""What layers are given and put out in one forward pass on the probe batch, for probes of other than hidden outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from plasticity_rl.agents.base import RLModule
from plasticity_rl.nn.hooks import evaluation_mode


@torch.no_grad()
def seen_by_layers(
    agent: RLModule, layers: Mapping[str, nn.Module], batch_size: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Run every module once on the probe batch and return input and output of ``layers``, by the same keys.

    Modules are in evaluation mode meanwhile; afterwards every mode is as before, and no hook is left. Of a layer that
    runs more than once the first time counts; one that does not run is left out.

    Args:
        agent: Attached to a Trainer and a replay.
        layers: Layers of one input and one output, by any name.
        batch_size: Transitions in the probe batch.
    """
    found: dict[str, tuple[Tensor, Tensor]] = {}
    given: dict[str, Tensor] = {}

    def before(key: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        # A copy: the layer, or one that follows, may work in place (ReLU(inplace=True)).
        return lambda _, inputs: given.update({key: inputs[0].detach().clone()})

    def after(key: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def keep(_: nn.Module, __: Any, output: Tensor) -> None:
            found.setdefault(key, (given[key], output.detach().clone()))

        return keep

    handles = []
    with evaluation_mode(agent):
        for key, layer in layers.items():
            handles += [layer.register_forward_pre_hook(before(key)), layer.register_forward_hook(after(key))]
        try:
            agent.forward_all(agent.probe_batch(batch_size))
        finally:
            for handle in handles:
                handle.remove()
    return found
