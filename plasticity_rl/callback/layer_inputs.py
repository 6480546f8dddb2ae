"""What layers are given and put out on the probe batch, in one number each, for probes of other than hidden outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from plasticity_rl.agents.base import RLModule
from plasticity_rl.nn.hooks import evaluation_mode, hooked

PART = 256
"""Transitions that are passed through the networks at once: feature maps of more would fill the memory."""

Measure = Callable[[Tensor], Any]
"""Maps values of a layer ``(n, ...)`` to a number, a mean over the n inputs."""


@torch.no_grad()
def means_by_layer(
    agent: RLModule, layers: Mapping[str, nn.Module], batch_size: int, measure: Measure, modules: Sequence[str] = ()
) -> dict[str, tuple[Any, Any]]:
    """Run every module on the probe batch and return the mean of a measure over input and output of ``layers``.

    The measure is taken while the network runs, and no activation is kept. Modules are in evaluation mode meanwhile;
    afterwards every mode is as before, and no hook is left. Of a layer that runs more than once the first time counts;
    one that does not run is left out.

    Args:
        agent: Attached to a Trainer and a replay.
        layers: Layers of one input and one output, by any name.
        batch_size: Transitions in the probe batch.
        measure: Of input and of output, for parts of the batch.
        modules: Top-level modules of whose output in ``forward_all`` the mean is wanted too.

    Returns:
        Of the inputs and of the outputs, by the same keys; by the name of a module 0 and that of its output.
    """
    sums: dict[str, tuple[Any, Any]] = {}
    for part in agent.probe_batch(batch_size).split(PART):
        share = len(part) / batch_size
        for key, (given, put_out) in _pass(agent, layers, part, measure, modules).items():
            before = sums.get(key, (0.0, 0.0))
            sums[key] = (before[0] + share * given, before[1] + share * put_out)
    return sums


def _pass(
    agent: RLModule, layers: Mapping[str, nn.Module], batch: Any, measure: Measure, modules: Sequence[str]
) -> dict[str, tuple[Any, Any]]:
    found: dict[str, tuple[Any, Any]] = {}
    given: dict[str, Any] = {}

    def before(key: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        # At once: the layer, or one that follows, may work in place (ReLU(inplace=True)).
        def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if key not in found:
                given[key] = measure(inputs[0])

        return look

    def after(key: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def look(_: nn.Module, __: Any, output: Tensor) -> None:
            if key not in found:
                found[key] = (given[key], measure(output))

        return look

    on_inputs = hooked(layer.register_forward_pre_hook(before(key)) for key, layer in layers.items())
    on_outputs = hooked(layer.register_forward_hook(after(key)) for key, layer in layers.items())
    with evaluation_mode(agent), on_inputs, on_outputs:
        outputs = agent.forward_all(batch)
    return found | {name: (0.0, measure(outputs[name])) for name in modules}
