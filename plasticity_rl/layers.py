"""Which layers of a module hold weights, which of them are hidden, and which parameters belong to norms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from plasticity_rl.errors import UserError

WEIGHT_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose ``weight`` has the shape ``(out, in, ...)``: everything behind the first axis is fan-in."""
NORM_LAYERS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def weight_layers(modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Return the linear and convolutional layers of ``modules`` by dotted name, each layer once.

    Args:
        modules: Modules by the name that a user gave.

    Raises:
        UserError: When one of the modules has no such layer, or there are no modules.
    """
    found: dict[str, nn.Module] = {}
    if not modules:
        raise UserError("modules is empty; name at least one module, e.g. modules=['critic']")
    for name, module in modules.items():
        own = {path: layer for path, layer in module.named_modules(prefix=name) if isinstance(layer, WEIGHT_LAYERS)}
        if not own:
            raise UserError(f"module {name!r} has no linear or convolutional layer; name one that has")
        seen = {id(layer) for layer in found.values()}
        found |= {path: layer for path, layer in own.items() if id(layer) not in seen}
    return found


def hidden_weight_layers(modules: Mapping[str, nn.Module], activations: Iterable[nn.Module]) -> dict[str, nn.Module]:
    """Return those of the :func:`weight_layers` that a norm or a hidden activation follows before the next of them.

    Args:
        modules: Modules by the name that a user gave.
        activations: Their hidden activation layers; a squashing of the output is none of them.

    Raises:
        UserError: When there are no such layers.
    """
    layers = weight_layers(modules)
    hidden, marks = {}, {id(layer) for layer in activations}
    for name, module in modules.items():
        last = ""
        for path, layer in module.named_modules(prefix=name):
            if isinstance(layer, WEIGHT_LAYERS):
                last = path
            elif last in layers and (id(layer) in marks or isinstance(layer, NORM_LAYERS)):
                hidden[last] = layers[last]
    if not hidden:
        raise UserError(f"modules={list(modules)} have no hidden layer; name modules that have one")
    return hidden


def parameters_outside_norms(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of ``module`` by name, without the gains and biases of norm layers."""
    return {
        f"{path}.{key}".lstrip("."): parameter
        for path, layer in module.named_modules()
        if not isinstance(layer, NORM_LAYERS)
        for key, parameter in layer.named_parameters(recurse=False)
    }


def linear_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights and biases of the linear layers of ``module`` by name."""
    return {
        f"{path}.{key}".lstrip("."): parameter
        for path, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
        for key, parameter in layer.named_parameters(recurse=False)
    }
