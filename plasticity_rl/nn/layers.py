"""Which layers of a module compute, learn and hold weights, which are hidden, and which parameters belong to norms."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Literal

from torch import nn

from plasticity_rl.errors import UserError
from plasticity_rl.nn.hooks import HiddenActivation
from plasticity_rl.nn.hypersphere import Scale

WEIGHT_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose ``weight`` has the shape ``(out, in, ...)``: everything behind the first axis is fan-in."""
NORM_LAYERS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


Part = Literal["own", "old", "added", "superseded", "subtracted", "waiting"]
"""Part that a layer plays in a module.

``own``: an ordinary layer. After an injection of plasticity a head is ``old`` (frozen), the pair's first half is
``added`` (the one that learns), its other half ``subtracted`` (frozen); an earlier added one is ``superseded``
(frozen). ``waiting``: in a pair that is not injected yet.
"""
COMPUTES: tuple[Part, ...] = ("own", "old", "superseded", "added")
"""Parts whose output the module's output is the sum of: what is measured. Not what is subtracted or waits."""
LEARNS: tuple[Part, ...] = ("own", "added")
"""Parts that compute the output and learn: what triggers watch, and regularizers move."""
FIRST: tuple[Part, ...] = ("own", "old")
"""Parts that the module had from the start: the same layers before and after an injection."""
ADDED: tuple[Part, ...] = ("added",)
"""The heads that were injected last."""
EVERYWHERE: tuple[Part, ...] = (*COMPUTES, "subtracted", "waiting")


def submodules(module: nn.Module, prefix: str = "", parts: Collection[Part] = COMPUTES) -> dict[str, nn.Module]:
    """Return ``module`` and what it is made of by dotted name, as ``named_modules``, but only what plays some parts.

    A module whose children play different parts says so by a method ``parts_of_children``: their dotted names in it to
    :data:`Part`. Everything else is ``own``.

    Args:
        module: Walked from the outside to the inside, in the order of definition.
        prefix: Its own dotted name.
        parts: Parts that count.
    """
    found: dict[str, nn.Module] = {}
    seen: set[int] = set()
    for path, child, part in _with_parts(module, prefix, "own"):
        if part in parts and id(child) not in seen:
            seen.add(id(child))
            found[path] = child
    return found


def _with_parts(module: nn.Module, path: str, part: Part) -> Iterator[tuple[str, nn.Module, Part]]:
    yield path, module, part
    if hasattr(module, "parts_of_children"):
        children = [(name, module.get_submodule(name), own) for name, own in module.parts_of_children().items()]  # type: ignore[operator]
    else:
        children = [(name, child, part) for name, child in module.named_children()]
    for name, child, own in children:
        yield from _with_parts(child, f"{path}.{name}".lstrip("."), own)


def weight_layers(modules: Mapping[str, nn.Module], parts: Collection[Part] = COMPUTES) -> dict[str, nn.Module]:
    """Return the linear and convolutional layers of ``modules`` by dotted name, each layer once.

    Args:
        modules: Modules by the name that a user gave.
        parts: Parts that count, see :func:`submodules`.

    Raises:
        UserError: When one of the modules has no such layer, or there are no modules.
    """
    found: dict[str, nn.Module] = {}
    if not modules:
        raise UserError("modules is empty; name at least one module, e.g. modules=['critic']")
    for name, module in modules.items():
        inside = submodules(module, name, parts)
        own = {path: layer for path, layer in inside.items() if isinstance(layer, WEIGHT_LAYERS)}
        if not own:
            raise UserError(f"module {name!r} has no linear or convolutional layer; name one that has")
        seen = {id(layer) for layer in found.values()}
        found |= {path: layer for path, layer in own.items() if id(layer) not in seen}
    return found


def hidden_weight_layers(
    modules: Mapping[str, nn.Module], activations: Iterable[nn.Module], parts: Collection[Part] = COMPUTES
) -> dict[str, nn.Module]:
    """Return those of the :func:`weight_layers` that a norm or a hidden activation follows before the next of them.

    Args:
        modules: Modules by the name that a user gave.
        activations: Their hidden activation layers; a squashing of the output is none of them.
        parts: Parts that count, see :func:`submodules`.

    Raises:
        UserError: When there are no such layers.
    """
    layers = weight_layers(modules, parts)
    hidden, marks = {}, {id(layer) for layer in activations}
    for name, module in modules.items():
        last = ""
        for path, layer in submodules(module, name, parts).items():
            if isinstance(layer, WEIGHT_LAYERS):
                last = path
            elif last in layers and (id(layer) in marks or isinstance(layer, NORM_LAYERS)):
                hidden[last] = layers[last]
    if not hidden:
        raise UserError(f"modules={list(modules)} have no hidden layer; name modules that have one")
    return hidden


def parameters_outside_norms(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of ``module`` by name, without gains and biases of norms, scales and activations' own."""
    return _own_parameters(module, lambda layer: not isinstance(layer, (*NORM_LAYERS, Scale, HiddenActivation)))


def weights_and_biases(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights and biases of the linear and convolutional layers of ``module`` by name, but frozen ones."""
    own = _own_parameters(module, lambda layer: isinstance(layer, WEIGHT_LAYERS))
    return {name: p for name, p in own.items() if name.rpartition(".")[2] in ("weight", "bias") and p.requires_grad}


def linear_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights and biases of the linear layers of ``module`` by name."""
    return _own_parameters(module, lambda layer: isinstance(layer, nn.Linear))


def _own_parameters(module: nn.Module, of: Callable[[nn.Module], bool]) -> dict[str, nn.Parameter]:
    """Return the parameters by name that belong to the layers ``of`` accepts."""
    return {
        f"{path}.{key}".lstrip("."): parameter
        for path, layer in module.named_modules()
        if of(layer)
        for key, parameter in layer.named_parameters(recurse=False)
    }


def layers_from_output(module: nn.Module, name: str, heads: Collection[str] = ()) -> list[dict[str, nn.Module]]:
    """Return the layers of ``module`` that hold parameters, in steps from its output back to its input.

    One step is a linear or convolutional layer with the norms (and other layers with parameters) behind it. Heads take
    each step together, a shorter one as long as it has layers, and what is in front of them follows the longest. Other
    parts of the module follow one another in the order in which they were defined; neighbours whose layers have equal
    types and shapes count as heads as well.

    Args:
        module: Its layers are in ``nn.Sequential`` containers or stand alone.
        name: Its dotted name, put in front of the layers' names and into messages.
        heads: Dotted names, which begin with ``name``, of the parts that put out what it does, side by side: whatever
            their layers are, for only who built the module can tell a second head from a first part.

    Raises:
        UserError: When a part of it is built in a way that does not tell the order.
    """
    sections = list(_sections(module, name))
    known = {id(p) for section in sections for layer in section.values() for p in layer.parameters()}
    if any(id(p) not in known for p in module.parameters()):
        raise UserError(f"cannot tell which layers of {name!r} are its last: it holds parameters outside of its layers")
    by_head = [layers_from_output(module.get_submodule(head.removeprefix(f"{name}.")), head) for head in heads]
    found = [_merged(steps) for steps in itertools.zip_longest(*by_head, fillvalue={})]
    inside = {path for steps in by_head for step in steps for path in step}
    groups: list[list[dict[str, nn.Module]]] = []
    for section in sections:
        rest = {path: layer for path, layer in section.items() if path not in inside}
        if groups and _signature(groups[-1][-1]) == _signature(rest):
            groups[-1].append(rest)
        elif rest:
            groups.append([rest])
    for side_by_side in reversed(groups):
        found += [_merged(steps) for steps in reversed(list(zip(*map(_steps, side_by_side), strict=True)))]
    return found


def _merged(steps: Iterable[dict[str, nn.Module]]) -> dict[str, nn.Module]:
    return {path: layer for step in steps for path, layer in step.items()}


def _sections(module: nn.Module, name: str) -> Iterator[dict[str, nn.Module]]:
    """Yield runs of layers with parameters: those of a sequence, else every layer by itself."""
    if not isinstance(module, nn.Sequential):
        if _is_layer(module):
            yield from [{name: module}] if any(True for _ in module.parameters()) else []
        else:
            for key, child in module.named_children():
                yield from _sections(child, f"{name}.{key}")
        return
    run: dict[str, nn.Module] = {}
    for path, leaf in _leaves(module, name):
        if _is_layer(leaf):
            run |= {path: leaf} if any(True for _ in leaf.parameters()) else {}
        else:
            yield from [run] if run else []
            yield from _sections(leaf, path)
            run = {}
    if run:
        yield run


def _leaves(sequence: nn.Sequential, name: str) -> Iterator[tuple[str, nn.Module]]:
    for key, child in sequence.named_children():
        if isinstance(child, nn.Sequential):
            yield from _leaves(child, f"{name}.{key}")
        else:
            yield f"{name}.{key}", child


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, (*WEIGHT_LAYERS, *NORM_LAYERS)) or not any(True for _ in module.children())


def _signature(section: Mapping[str, nn.Module]) -> list[tuple[type, list[tuple[int, ...]]]]:
    return [(type(layer), [tuple(p.shape) for p in layer.parameters()]) for layer in section.values()]


def _steps(section: Mapping[str, nn.Module]) -> list[dict[str, nn.Module]]:
    steps: list[dict[str, nn.Module]] = [{}]
    for path, layer in section.items():
        if isinstance(layer, WEIGHT_LAYERS) and any(isinstance(known, WEIGHT_LAYERS) for known in steps[-1].values()):
            steps.append({})
        steps[-1][path] = layer
    return steps
