"""Take dormant units out of the network for good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tensordict import TensorDictBase
from torch import Tensor

from plasticity_rl.agents.base import RLModule
from plasticity_rl.agents.jumps import Jump, Watch
from plasticity_rl.callback.dormant_unit_interventions import DormantUnitIntervention
from plasticity_rl.callback.unit_interventions import clear_makers, detach_readers
from plasticity_rl.nn.units import UnitLayer
from plasticity_rl.surgery import unit_columns, unit_rows, zero_columns, zero_units


class PruneDormant(DormantUnitIntervention):
    """Mask every hidden unit that is ever found dormant: do dormant units matter at all?

    A pruned unit has incoming weights, bias and outgoing weights zero, in every layer that reads it and in the target
    network, and the noise of noisy layers with them. They are set to zero again at the start and the end of every
    update, so that no regularizer, reset or other intervention brings the unit back.

    Mutates: incoming weights, biases and outgoing weights of pruned units, and their optimizer moments (all to zero;
        step counts stay); the same weights in the target critic.
    Logs: ``intervention/prune_dormant`` (1 when it looked for dormant units),
        ``intervention/prune_dormant/pruned/<module>`` (share of the module's hidden units) and a line of text.
    Reference: Sokar et al. 2023 (arXiv 2302.12902), section 3: pruning every unit found dormant left the return as it
        was.
    Differences from the original: a unit counts as dormant on one batch of ``batch_size``, at ``every_n_updates``.

    Args:
        modules: Modules by dotted name: ``encoder``, ``actor``, ``critic``, or a part such as ``critic.Q1``;
            None for all networks of the agent.
        tau: Threshold of the score, in [0, 1); 0 prunes units that are silent on the whole batch.
        every_n_updates: Period in gradient updates.
        batch_size: Observations that the score is averaged over.
    """

    reads = frozenset({"units"})
    writes = frozenset({"jump", "optimizer"})
    cuda_graph = "stays"
    incompatible_with: ClassVar[Mapping[str, str]] = {"ReDo": "one prunes the dormant units that the other recycles"}
    example_arguments: ClassVar[Mapping[str, Any]] = {"tau": 0.2, "every_n_updates": 3, "batch_size": 8}
    inert_arguments: ClassVar[Mapping[str, Any]] = {"every_n_updates": 10**12}

    def __init__(
        self,
        *,
        modules: Sequence[str] | None = None,
        tau: float = 0.0,
        every_n_updates: int = 1000,
        batch_size: int = 256,
    ) -> None:
        super().__init__(modules=modules, tau=tau, every_n_updates=every_n_updates, batch_size=batch_size)
        self._pruned: dict[str, Tensor] = {}
        self._touched = False  # whether another callback let weights jump since the last update ended

    def tags(self) -> frozenset[str]:
        """Return one tag for each module."""
        return frozenset(f"intervention/{self.name}/pruned/{name}" for name in self.modules)

    def act(self, agent: RLModule) -> str:
        """Add the units that are dormant now to the pruned ones."""
        shares: dict[str, float] = {}
        for name, layers in self.find_dormant(agent).items():
            for path, (_, units) in layers.items():
                self._pruned[path] = self._pruned[path].to(units.device) | units if path in self._pruned else units
            masks = [self._pruned[path] for path in layers]
            shares[name] = sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
        for layer in self._layers_with_pruned(agent):
            self._mask(agent, layer)
            clear_makers(agent, layer, self._pruned[layer.name])
            detach_readers(agent, layer, self._pruned[layer.name])
        agent.log_scalars({f"intervention/{self.name}/pruned/{name}": share for name, share in shares.items()})
        parts = ", ".join(f"{share:.1%} of {name}" for name, share in shares.items())
        return f"pruned so far: {parts} at frame {agent.env_frames}"

    def moves_weights(self, agent: RLModule) -> bool:
        """Return whether it prunes more, or may have to mask weights that another callback let jump.

        After an update it masks what the optimizer did, which belongs to the step.
        """
        return (self._touched and bool(self._pruned)) or super().moves_weights(agent)

    def on_weights_jumped(self, agent: RLModule, jump: Jump) -> None:
        """Note that pruned units may have been touched."""
        self._touched = self._touched or jump.by != self.state_key

    def on_update_start(self, agent: RLModule) -> None:
        """Mask what others may have touched, then look for more when due."""
        self._mask_all(agent)
        super().on_update_start(agent)

    def on_update_end(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> None:
        """Mask before anything measures, acts or is saved."""
        self._mask_all(agent)
        self._touched = False

    def _mask_all(self, agent: RLModule) -> None:
        for layer in self._layers_with_pruned(agent) if self._pruned else ():
            self._mask(agent, layer)

    def _layers_with_pruned(self, agent: RLModule) -> list[UnitLayer]:
        return [layer for name, layer in self.unit_layers(agent).items() if name in self._pruned]

    def _mask(self, agent: RLModule, layer: UnitLayer) -> None:
        units = self._pruned[layer.name] = self._pruned[layer.name].to(layer.readers[0].weight.device)
        for maker in (*layer.makers, *layer.twins):
            zero_units(maker, units)
        for reader in layer.readers:
            for weight in reader.weights:
                zero_columns(weight, layer.outputs_of(units), reader.inputs)
        if agent.watch is not None:
            self._tell_what_is_held(agent.watch, layer, units)

    def _tell_what_is_held(self, watch: Watch, layer: UnitLayer, units: Tensor) -> None:
        for maker in layer.makers:
            for parameter in maker.parameters(recurse=False):
                watch.hold(parameter, unit_rows(parameter, units))
        for reader in layer.readers:
            for weight in reader.weights:
                watch.hold(weight, unit_columns(weight, layer.outputs_of(units), reader.inputs))

    def state_dict(self) -> dict[str, Any]:
        """Return the schedule, the masks (True is pruned), and whether weights jumped since the last update."""
        return {**super().state_dict(), "pruned": dict(self._pruned), "touched": self._touched}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        super().load_state_dict(state_dict)
        self._pruned = dict(state_dict["pruned"])
        self._touched = state_dict.get("touched", True)  # older checkpoints do not say
