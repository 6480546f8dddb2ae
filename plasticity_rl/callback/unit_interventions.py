"""Bases of the interventions on hidden units: which weights these have, and how one is replaced by a fresh one."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import lightning.pytorch as pl
import torch
from tensordict import TensorDictBase
from torch import Tensor

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.agents.hooks import Mutation
from plasticity_rl.agents.jumps import Jump
from plasticity_rl.callback.intervention import Intervention
from plasticity_rl.callback.unit_activity import TrainingActivations
from plasticity_rl.distributed.ranks import over_ranks
from plasticity_rl.errors import UserError
from plasticity_rl.nn.units import Reader, UnitLayer
from plasticity_rl.nn.weight_transforms import weight_in_use
from plasticity_rl.rng import derive_seed
from plasticity_rl.surgery import (
    absorb_units,
    clear_elements,
    copy_units,
    fresh_layer,
    read_on_average,
    unit_columns,
    unit_rows,
    write_units,
    zero_columns,
)


class UnitIntervention(Intervention):
    """Edits hidden units of ``self.modules``; only those behind a hidden activation count, outputs are none."""

    family = "surgery"
    modules: list[str]
    _units: Mapping[str, UnitLayer] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse wrong names, and modules without hidden units, before anything is trained."""
        super().setup(trainer, pl_module, stage)
        self._units = {}  # may be those of another agent
        for name in self.modules:
            if not as_agent(pl_module).units(name):
                raise UserError(f"{type(self).__name__}.modules: {name!r} has no hidden ReLU units")

    def mutates(self, agent: RLModule) -> Mutation:
        """What makes and reads the units, in the target as well; the optimizer slots of what is trained."""
        owned: list[Tensor] = []
        for layer in self.layers(agent):
            owned += [p for maker in (*layer.makers, *layer.twins) for p in maker.parameters()]
            owned += [p for reader in layer.readers for p in reader.weights]
        ids = {id(p): p.requires_grad for p in owned}
        names = {name: ids[id(p)] for name, p in agent.named_parameters() if id(p) in ids}
        return Mutation(parameters=frozenset(names), optimizer_slots=frozenset(n for n, own in names.items() if own))

    def layers(self, agent: RLModule) -> list[UnitLayer]:
        """Return the unit layers of all modules, each once."""
        return list({layer.name: layer for name in self.modules for layer in agent.units(name)}.values())

    def unit_layers(self, agent: RLModule) -> Mapping[str, UnitLayer]:
        """Return the unit layers by name, looked up once: the networks do not change after the start."""
        if not self._units:
            self._units = {layer.name: layer for layer in self.layers(agent)}
        return self._units


class RecordingUnitIntervention(UnitIntervention):
    """Keeps a record of every hidden unit, from the training batch of every update. It costs no forward pass.

    Args:
        modules: Modules by dotted name; None for all networks of the agent.
    """

    def __init__(self, *, modules: Sequence[str] | None) -> None:
        self.modules = self.named_or_open(modules, ("encoder", "actor", "critic"))
        self._activations = TrainingActivations(self.modules, self.read)
        self._readers: dict[str, list[Reader]] = {}

    def resolve(self, agent: RLModule) -> None:
        """Take the modules of this agent where none were named."""
        super().resolve(agent)
        self._activations.modules = self.modules

    def read(self, output: Tensor) -> Tensor:
        """Return what is recorded of a layer's output ``(B, outputs, ...)``: float32 ``(quantities, numbers)``."""
        raise NotImplementedError

    def record(self, agent: RLModule, seen: dict[str, Tensor]) -> None:
        """Take in what was read in an update: unit layer -> ``(quantities, numbers)``, the mean over all ranks.

        Layers that did not run (a head in waiting) are left out.
        """
        raise NotImplementedError

    def online_readers(self, agent: RLModule) -> dict[str, list[Reader]]:
        """Return who reads the units of each layer, without target networks."""
        if not self._readers:
            online = {id(p) for name in agent.module_names for p in agent.module(name).parameters()}
            for name, layer in self.unit_layers(agent).items():
                self._readers[name] = [reader for reader in layer.readers if id(reader.weight) in online]
        return self._readers

    def renewed_layers(self, agent: RLModule, jump: Jump) -> set[str]:
        """Return the unit layers whose units hold fresh initial weights as a whole."""
        fresh = {id(jump.live[name]) for name in jump.renewed}
        layers = self.unit_layers(agent).items()
        return {name for name, layer in layers if any(id(p) in fresh for p in layer.makers[0].parameters())}

    def module_of(self, layer: str) -> str:
        """Return the first of ``self.modules`` that the unit layer of this name belongs to."""
        return next(name for name in self.modules if f"{layer}.".startswith(f"{name}."))

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the layers of another agent."""
        self._readers = {}

    def on_update_end(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> None:
        """Remove the hooks, average over ranks, and record."""
        read = self._activations.stop()
        seen = {f"{name}.{layer}": value for name, layers in read.items() for layer, value in layers.items()}
        seen = {name: value for name, value in seen.items() if name in self.unit_layers(agent)}  # no residual streams
        if seen:
            together = over_ranks(agent, torch.cat(list(seen.values()), dim=1))
            parts = together.split([value.shape[1] for value in seen.values()], dim=1)
            self.record(agent, dict(zip(seen, parts, strict=True)))


@dataclass
class FreshUnits:
    """Fresh units of one layer. A layer is drawn as a whole, for its initialisation may relate its rows to each other.

    Its rows are handed out one after the other, so that a draw (an orthogonal matrix takes a while) serves for as many
    units as there are in the layer. Which rows come next depends on the seed, the name and ``taken`` only.

    Attributes:
        layer: Where the units belong.
        name: Name of the stream of random numbers.
        taken: How many were handed out so far: all that needs to be saved.
    """

    layer: UnitLayer
    name: str
    taken: int = 0
    _stock: tuple[int, list[dict[str, Tensor]]] = field(default=(-1, []), repr=False)

    def take(self, agent: RLModule, count: int) -> list[dict[str, Tensor]]:
        """Return ``count`` new units: for each of the layer's makers its parameters' rows by name."""
        pieces: list[list[dict[str, Tensor]]] = []
        while count:
            number, first = divmod(self.taken, self.layer.size)
            last = min(first + count, self.layer.size)
            pieces.append([{key: rows[first:last] for key, rows in own.items()} for own in self._draw(agent, number)])
            self.taken += last - first
            count -= last - first
        return [
            {key: torch.cat([piece[key] for piece in parts]) for key in parts[0]} for parts in zip(*pieces, strict=True)
        ]

    def _draw(self, agent: RLModule, number: int) -> list[dict[str, Tensor]]:
        seed = derive_seed(agent.rng.seed, f"{self.name}/{self.layer.name}/{number}")  # while priming it is another one
        if self._stock[0] != seed:
            generator = torch.Generator().manual_seed(seed)
            fresh = [fresh_layer(maker, agent.init_layer, generator, pruned=False) for maker in self.layer.makers]
            rows = [{key: p.detach() for key, p in layer.named_parameters(recurse=False)} for layer in fresh]
            self._stock = (seed, rows)
        return self._stock[1]


def mask_of(units: Tensor, size: int) -> Tensor:
    """Return a bool mask ``(size,)`` that is true at the indices ``units``."""
    mask = torch.zeros(size, dtype=torch.bool, device=units.device)
    return mask.index_fill_(0, units, True)


def put_units(agent: RLModule, layer: UnitLayer, units: Tensor, rows: Sequence[dict[str, Tensor]]) -> None:
    """Write incoming weights of ``units`` (indices), the same into the target, and clear their optimizer moments.

    Of a noisy layer these are also the scales of the noise in them, as at initialisation.
    """
    mask = mask_of(units, layer.size)
    note_renewed(agent, layer, mask)
    for maker, own in zip(layer.makers, rows, strict=True):
        write_units(maker, units, own)
    for maker, twin in zip(layer.makers, layer.twins, strict=bool(layer.twins)):
        copy_units(maker, twin, mask)
    clear_makers(agent, layer, mask)


def feed_on_average(agent: RLModule, layer: UnitLayer, units: Tensor, means: Tensor) -> None:
    """Add what the readers of ``units`` (mask) read from them on average to their biases, in any copy as well.

    A copy's readers get what they read by their own weights, as the target network's do.

    Args:
        agent: The agent.
        layer: Where the units belong.
        units: Bool ``(n,)``.
        means: Mean of every output of the layer, ``(copies * n,)`` or ``(copies * n * positions,)``.
    """
    outputs = layer.outputs_of(units)
    for reader in layer.readers:
        absorb_units(reader.layer, outputs, means, reader.inputs)
        bias = dict(reader.layer.named_parameters(recurse=False)).get("bias")
        if agent.watch is not None and bias is not None:
            names = agent.watch.name_of(reader.weight), agent.watch.name_of(bias)
            agent.watch.repeat(functools.partial(_feed_in_copy, reader, names, outputs, means), names[1:])


def _feed_in_copy(
    reader: Reader, names: tuple[str, str], outputs: Tensor, means: Tensor, copy: Mapping[str, Tensor]
) -> None:
    weight, bias = names
    if weight in copy and bias in copy:
        in_use = weight_in_use(reader.layer, copy[weight])
        copy[bias].add_(read_on_average(in_use, outputs, means, reader.inputs))


def note_renewed(agent: RLModule, layer: UnitLayer, units: Tensor) -> None:
    """Let the agent tell, with the weights that jump, that ``units`` (mask) are new ones."""
    if agent.watch is not None:
        agent.watch.renew_units(layer.name, units)


def detach_readers(agent: RLModule, layer: UnitLayer, units: Tensor) -> None:
    """Set the weights with which any layer reads ``units`` (mask) to zero, and their optimizer moments.

    A noisy layer reads them without noise as well from then on, until it learns otherwise: else they would not be
    silent.
    """
    outputs = layer.outputs_of(units)
    for reader in layer.readers:
        for weight in reader.weights:
            zero_columns(weight, outputs, reader.inputs)
            _clear(agent, weight, unit_columns(weight, outputs, reader.inputs))


def clear_makers(agent: RLModule, layer: UnitLayer, units: Tensor) -> None:
    """Set the optimizer moments of the incoming weights and biases of ``units`` (mask) to zero."""
    for maker in layer.makers:
        for parameter in maker.parameters(recurse=False):
            _clear(agent, parameter, unit_rows(parameter, units))


def _clear(agent: RLModule, parameter: Tensor, elements: Tensor) -> None:
    optimizer = agent.optimizer_of(parameter)
    if optimizer is not None:
        clear_elements(optimizer, parameter, elements)
