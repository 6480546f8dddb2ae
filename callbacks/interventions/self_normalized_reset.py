"""Reset units that are silent for longer than their own past explains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from torch import Tensor

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.agents.jumps import Jump
from plasticity_rl.callback.unit_interventions import (
    FreshUnits,
    RecordingUnitIntervention,
    detach_readers,
    mask_of,
    put_units,
)
from plasticity_rl.callback.unit_silence import SilenceRecord
from plasticity_rl.errors import at_least, within
from plasticity_rl.schedules import Events


class SelfNormalizedReset(RecordingUnitIntervention):
    """Reset a hidden unit when ``P(A >= a) <= eta``: a its silence, A its own inter-firing times, in updates.

    A unit fires in an update when it is above zero anywhere in the training batch. Its times are on record since the
    start or its last reset, and the probability is estimated as ``(1 + #{A >= a}) / (1 + #A)``: it takes ``1 / eta -
    1`` times on record before a unit can be suspected. A unit that is silent for ``max_silent_updates`` is reset in any
    case, one that never fired included. It gets incoming weights as at initialisation, bias 0 and outgoing weights 0
    (in noisy layers the scale of the noise likewise).

    Mutates: incoming weights, biases and outgoing weights of the reset units, and their optimizer moments (to zero;
        Adam's step counts stay, as there is one per tensor); in the target critic the incoming weights become those of
        the online critic, the outgoing ones zero.
    Logs: when units were reset: ``intervention/self_normalized_reset`` (1),
        ``intervention/self_normalized_reset/reset/<module>`` (units so far) and a line of text.
    Reference: Farias & Jozefiak 2025 (arXiv 2410.20098), Algorithm 1, whose one hyper-parameter is ``eta``. The default
        is this project's.
    Differences from the original: the authors' code keeps a threshold per unit, which it adapts once per task to a
        percentile of the times since (or doubles it); here the whole record of the unit counts, and there are no tasks.
        It tests after every update, this every ``every_n_updates``. Units of a convolution are channels.
        A unit that is silent for ``max_silent_updates`` is reset in any case. The default ``eta`` is this project's.

    Args:
        modules: Modules by dotted name: ``encoder``, ``actor``, ``critic``, or a part such as ``critic.Q1``;
            None for all networks of the agent.
        eta: Rejection percentile, in [0, 1): share of the own inter-firing times that may be as long as the silence.
        max_silent_updates: Silence in updates after which a unit is reset whatever its record, >= 1.
        every_n_updates: Period of the test in gradient updates; a GPU is waited for then and only then.

    Raises:
        UserError: When a number is out of its range.
    """

    reads = frozenset({"units", "unit records"})
    writes = frozenset({"jump", "fresh units", "optimizer"})
    cuda_graph = "eager"
    acts_on = "silence"
    example_arguments: ClassVar[Mapping[str, Any]] = {
        "modules": ["encoder", "actor"],
        "eta": 0.2,
        "max_silent_updates": 4,
        "every_n_updates": 2,
    }
    inert_arguments: ClassVar[Mapping[str, Any]] = {"every_n_updates": 10**12}
    incompatible_with: ClassVar[Mapping[str, str]] = {
        "PruneDormant": "one removes units for good, the other renews them"
    }

    def __init__(
        self,
        *,
        modules: Sequence[str] | None = None,
        eta: float = 0.01,
        max_silent_updates: int = 1000,
        every_n_updates: int = 10,
    ) -> None:
        super().__init__(modules=modules)
        within("SelfNormalizedReset.eta", eta, "[0, 1)", ": at 1 every silent unit is reset")
        at_least("SelfNormalizedReset.max_silent_updates", max_silent_updates, 1)
        self.eta, self.max_silent_updates, self.every_n_updates = eta, max_silent_updates, every_n_updates
        self.events = Events(every=every_n_updates, option="SelfNormalizedReset.every_n_updates")
        self._records: dict[str, SilenceRecord] = {}
        self._fresh: dict[str, FreshUnits] = {}
        self._reset: dict[str, int] = {}

    def tags(self) -> frozenset[str]:
        """Return one tag for each module."""
        return frozenset(f"intervention/{self.name}/reset/{name}" for name in self.modules)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Start the records."""
        super().setup(trainer, pl_module, stage)
        layers, name = self.layers(as_agent(pl_module)), f"intervention/{self.state_key}"
        self._records = {layer.name: SilenceRecord(layer.size, longest=self.max_silent_updates) for layer in layers}
        self._fresh = {layer.name: FreshUnits(layer, name) for layer in layers}
        self._reset = dict.fromkeys(self.modules, 0)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Follow the weights to their device."""
        super().on_fit_start(trainer, pl_module)
        for name, layer in self.unit_layers(as_agent(pl_module)).items():
            self._records[name].to(layer.readers[0].weight.device)

    def read(self, output: Tensor) -> Tensor:
        """Return 1 for every output that is above zero anywhere."""
        return (output.transpose(0, 1).flatten(1) > 0).any(1)[None].float()

    def record(self, agent: RLModule, seen: dict[str, Tensor]) -> None:
        """Count one update; a unit with two outputs fires when one of them does, and on any rank."""
        for name, fired in seen.items():
            size = self.unit_layers(agent)[name].size
            self._records[name].observe((fired > 0).view(-1, size).any(0))

    def on_update_start(self, agent: RLModule) -> None:
        """Test when due, and watch the update that starts."""
        if self.events.fire(agent.num_updates + 1):
            self._test(agent)
        self._activations.start(agent)

    @torch.no_grad()
    def _test(self, agent: RLModule) -> None:
        layers = self.unit_layers(agent)
        masks = [record.suspicious(self.eta) for record in self._records.values()]
        found = torch.cat(masks).cpu().split([len(mask) for mask in masks])  # the one wait for a GPU
        due = {name: mask.nonzero().flatten() for name, mask in zip(self._records, found, strict=True) if mask.any()}
        due = {name: units.to(layers[name].readers[0].weight.device) for name, units in due.items()}
        for name, units in due.items():
            put_units(agent, layers[name], units, self._fresh[name].take(agent, len(units)))
        for name, units in due.items():
            detach_readers(agent, layers[name], mask_of(units, layers[name].size))
            self._records[name].forget(units)
            self._reset[self.module_of(name)] += len(units)
        if due:
            parts = ", ".join(f"{count} units of {name}" for name, count in self._reset.items())
            prefix = f"intervention/{self.name}/reset"
            agent.log_scalars({f"{prefix}/{name}": float(count) for name, count in self._reset.items()})
            agent.log_event(self.name, f"reset so far: {parts} at frame {agent.env_frames}")

    def moves_weights(self, agent: RLModule) -> bool:
        """Return whether a test is due."""
        return self.events.due(agent.num_updates + 1)

    def on_weights_jumped(self, agent: RLModule, jump: Jump) -> None:
        """Start the records anew of a layer that was reset as a whole, and of units that were replaced."""
        whole = self.renewed_layers(agent, jump)
        for name, record in self._records.items():
            if name in whole:
                record.forget(torch.ones_like(record.silence, dtype=torch.bool))
            elif name in jump.units:
                record.forget(jump.units[name])

    def state_dict(self) -> dict[str, Any]:
        """Return the records, the schedule, and how much was drawn and reset so far."""
        return {
            "records": {name: record.state_dict() for name, record in self._records.items()},
            "taken": {name: fresh.taken for name, fresh in self._fresh.items()},
            "reset": dict(self._reset),
            "seen": self.events.seen,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        for name, record in state_dict["records"].items():
            self._records[name].load_state_dict(record)
            self._fresh[name].taken = state_dict["taken"][name]
        self._reset, self.events.seen = dict(state_dict["reset"]), state_dict["seen"]
