"""What the probes of one update share: a batch of the replay, and one forward pass on it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from plasticity_rl.agents.protocol import AgentProtocol
from plasticity_rl.nn.hooks import evaluation_mode, hooked
from plasticity_rl.rng import NamedGenerators, derive_seed


@dataclass(frozen=True)
class Pass:
    """What one forward pass gave.

    Attributes:
        activations: Detached outputs of the hidden activation layers by layer, ``(B, units)`` or ``(B, channels,
            height, width)``; the first output of a layer that runs more than once. A layer that does not run (a head
            in waiting) is left out. In a frozen encoder, which sees single frames, B is transitions times frames, those
            of a transition one after the other.
        outputs: What ``agent.forward_all`` returned, without gradient.
    """

    activations: dict[nn.Module, Tensor]
    outputs: dict[str, Tensor]


@torch.no_grad()
def record_pass(agent: AgentProtocol, batch: TensorDictBase) -> Pass:
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
    with evaluation_mode(agent), hooked(layer.register_forward_hook(record) for layer in layers):
        outputs = agent.forward_all(batch)
    return Pass(recorded, outputs)


class SharedMeasurements(AgentProtocol):
    """The part of the agent protocol by which probes look at the networks without paying for it one by one."""

    rng: NamedGenerators
    num_updates: int

    def __init__(self) -> None:
        super().__init__()
        self._once_per_update: dict[Hashable, Any] | None = None
        self._warned: set[str] = set()

    def probe_batch(self, batch_size: int = 256) -> TensorDictBase:
        """Return a batch of the replay for probes, never augmented: the same one for every probe of an update.

        It depends on seed, update and replay contents only, and takes no number from the run's generators.

        Args:
            batch_size: Number of transitions, drawn with replacement.

        Returns:
            TensorDict ``[batch_size]`` with the keys of a training batch, on the agent's device. Do not write into it.
        """
        generator = torch.Generator().manual_seed(derive_seed(self.rng.seed, f"probe/{self.num_updates}"))
        draw = lambda: self.data.replay.peek(batch_size, generator).to(self.device)  # noqa: E731
        return self.once_per_update(("probe_batch", batch_size), draw)

    def probe_activations(self, name: str, batch_size: int = 256) -> dict[str, Tensor]:
        """Return a module's hidden activations on the probe batch, from one forward pass shared by all probes.

        Args:
            name: Module by dotted name.
            batch_size: Size of the probe batch.

        Returns:
            Tensors by layer, in the order of ``activation_layers``. Do not write into them.
        """
        recorded = self._probe_pass(batch_size).activations
        layers = self.activation_layers(name).items()
        return {layer_name: recorded[layer] for layer_name, layer in layers if layer in recorded}  # some may be idle

    def probe_outputs(self, batch_size: int = 256) -> dict[str, Tensor]:
        """Return what :meth:`forward_all` gives on the probe batch, from that same pass. Do not write into it."""
        return self._probe_pass(batch_size).outputs

    def _probe_pass(self, batch_size: int) -> Pass:
        record = lambda: record_pass(self, self.probe_batch(batch_size))  # noqa: E731
        return self.once_per_update(("pass", batch_size), record)

    def warn_once(self, subject: str, text: str) -> None:
        """Warn once about a subject, whoever sees it first, and how often."""
        if subject not in self._warned:
            self._warned.add(subject)
            warnings.warn(text, stacklevel=2)

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Evaluate meanwhile what :meth:`once_per_update` is asked for only once."""
        self._once_per_update = {}
        try:
            yield
        finally:
            self._once_per_update = None

    def forget_shared(self) -> None:
        """Evaluate it anew from here on: the weights are others than before."""
        if self._once_per_update is not None:
            self._once_per_update.clear()

    def once_per_update(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """Return ``compute()``, evaluated once for all probes that measure at the end of this update, then dropped.

        Elsewhere (interventions act one after the other, on weights that the one before may have changed) it is
        evaluated at every call.
        """
        if self._once_per_update is None:
            return compute()
        if key not in self._once_per_update:
            self._once_per_update[key] = compute()
        return self._once_per_update[key]
