"""What interventions on the architecture share: they rebuild parts of an agent before its optimizers exist.

Fresh layers draw from a generator that depends on the seed and the layer's place only, so a layer that two
interventions shape has the same first weights whoever came last, and all other layers have the weights of a run without
them. The target network gets the twin of everything.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from plasticity_rl.agents.base import RLModule
from plasticity_rl.callback.intervention import Intervention
from plasticity_rl.errors import UserError
from plasticity_rl.nn.layers import NORM_LAYERS, hidden_weight_layers
from plasticity_rl.nn.units import UnitLayer
from plasticity_rl.rng import derive_seed
from plasticity_rl.surgery import insert_after, reinitialize, resized, size_of


class Architecture(Intervention):
    """An intervention that acts once, in ``build``: law 2 cannot hold for it.

    Args:
        modules: Modules by dotted name; None leaves them to the agent.
        published: Names in DrQ-v2 from pixels, see :meth:`Intervention.named_or_open`.

    Raises:
        UserError: When there are none.
    """

    family = "architecture"
    inert_arguments: ClassVar[None] = None

    def __init__(
        self, *, modules: Sequence[str] | None, published: Sequence[str] = ("encoder", "actor", "critic")
    ) -> None:
        self.modules = self.named_or_open(modules, published)
        if not self.modules:
            raise UserError(f"{type(self).__name__}.modules is empty; name at least one module")

    def build(self, agent: RLModule) -> None:
        """Rebuild the modules."""
        raise NotImplementedError

    def refuse_without_activations(self, agent: RLModule) -> None:
        """Raise UserError when one of the modules does not exist or has no hidden activation."""
        for name in self.modules:
            if not agent.activation_layers(name):
                raise UserError(f"{type(self).__name__}.modules: {name!r} has no hidden activation")

    def units(self, agent: RLModule) -> list[UnitLayer]:
        """Return the hidden layers of all modules, each once."""
        self.refuse_without_activations(agent)
        return list({layer.name: layer for name in self.modules for layer in agent.units(name)}.values())


def place_generator(agent: RLModule, path: str) -> torch.Generator:
    """Return a new CPU generator that depends on the agent's seed and ``path`` only."""
    return torch.Generator().manual_seed(derive_seed(agent.rng.seed, f"architecture/{path}"))


def put(agent: RLModule, path: str, layer: nn.Module) -> None:
    """Give ``layer`` first values and put it in the place ``path``, a copy of it into the target network.

    Args:
        agent: Edited in place.
        path: Dotted name of a layer below a top-level module, e.g. ``critic.Q1.0``.
        layer: Whatever values it has are lost.
    """
    reinitialize(layer, agent.init_layer, place_generator(agent, path))
    parent, _, name = path.rpartition(".")
    setattr(agent.module(parent), name, layer)
    twin = agent.target_of(parent)
    if twin is not None:
        setattr(twin, name, copy.deepcopy(layer).requires_grad_(False))


def put_behind(agent: RLModule, path: str, suffix: str, layer: nn.Module) -> None:
    """Put ``layer`` behind the layer at ``path`` as ``<path><suffix>``, a copy of it into the target network.

    Raises:
        UserError: When the layer at ``path`` does not lie in an ``nn.Sequential``.
    """
    parent, _, name = path.rpartition(".")
    twin = agent.target_of(parent)
    copies = [(agent.module(parent), layer)]
    copies += [(twin, copy.deepcopy(layer).requires_grad_(False))] if twin is not None else []
    for sequential, own in copies:
        if not isinstance(sequential, nn.Sequential):
            raise UserError(f"cannot put a layer behind {path!r}: it does not lie in an nn.Sequential")
        insert_after(sequential, name, f"{name}{suffix}", own)


def with_twin(agent: RLModule, path: str) -> list[nn.Module]:
    """Return the layer at ``path`` and its twin in the target network, if there is one."""
    twin = agent.target_of(path)
    return [agent.module(path), *([twin] if twin is not None else [])]


def resize_units(
    agent: RLModule, layers: Iterable[UnitLayer], new_size: Callable[[int], int], copies: int | None = None
) -> None:
    """Give hidden layers another number of units, and everything that reads them inputs to match; all drawn anew.

    Args:
        agent: Edited in place.
        layers: Hidden layers, as they are before.
        new_size: Number of units as a function of the present one.
        copies: Outputs per unit that the activation will have, or None for as many as now.
    """
    paths = {id(m): path for path, m in agent.named_modules() if path.split(".")[0] in agent.module_names}
    sizes: dict[str, tuple[int, int]] = {}
    for layer in layers:
        units = new_size(layer.size)
        for maker in layer.makers:
            path = paths[id(maker)]
            sizes[path] = (units, sizes.get(path, size_of(maker))[1])
        for reader in layer.readers:
            if id(reader.layer) in paths:  # the target's readers are the twins of these
                path = paths[id(reader.layer)]
                outputs, inputs = sizes.get(path, size_of(reader.layer))
                per_output = reader.inputs // (layer.size * layer.copies)
                sizes[path] = (outputs, inputs - reader.inputs + per_output * units * (copies or layer.copies))
    for path, size in sizes.items():
        old = agent.get_submodule(path)
        if size != size_of(old):
            put(agent, path, resized(old, *size))


def layers_without_norm(agent: RLModule, modules: Sequence[str]) -> list[str]:
    """Return the hidden linear and convolutional layers of modules that no norm follows, by dotted name.

    Raises:
        UserError: When the modules have no hidden layer at all.
    """
    activations = [layer for name in modules for layer in agent.activation_layers(name).values()]
    paths = hidden_weight_layers({name: agent.module(name) for name in modules}, activations)
    return [path for path in paths if not isinstance(_behind(agent, path), NORM_LAYERS)]


def put_norm(agent: RLModule, path: str) -> None:
    """Put a norm with one gain and one bias per unit behind the layer at ``path``, called ``<path>_norm``."""
    weight = agent.module(path).get_parameter("weight")
    same: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
    norm = nn.LayerNorm(len(weight), **same) if weight.dim() == 2 else nn.GroupNorm(1, len(weight), **same)
    put_behind(agent, path, "_norm", norm)


def _behind(agent: RLModule, path: str) -> nn.Module | None:
    parent, _, name = path.rpartition(".")
    children = list(agent.module(parent).named_children())
    position = [child for child, _ in children].index(name)
    return children[position + 1][1] if position + 1 < len(children) else None
