"""The quantities of the probes for any ``nn.Module`` in Python, without agent, Trainer or run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from plasticity_rl.measures.activations import active_and_total, pooled_fraction
from plasticity_rl.measures.checks import refuse_not_finite
from plasticity_rl.measures.dormancy import dormant_mask, linearized_mask, mean_of_units
from plasticity_rl.measures.spectra import (
    Spectrum,
    approximate_rank,
    effective_rank,
    feature_rank,
    spectrum,
    srank,
    stable_rank,
)
from plasticity_rl.measures.weights import l2_norm
from plasticity_rl.nn.hooks import HiddenActivation, evaluation_mode, hooked
from plasticity_rl.nn.layers import FIRST, LEARNS, submodules
from plasticity_rl.nn.weight_transforms import parameters_in_use

RANKS: dict[str, Callable[[Spectrum], float]] = {
    "srank": srank,
    "feature_rank": feature_rank,
    "effective_rank": effective_rank,
    "stable_rank": stable_rank,
    "approximate_rank": approximate_rank,
}


def measure_module(
    module: nn.Module,
    *inputs: Any,
    tau: float = 0.025,
    activations: Sequence[type[nn.Module]] = (nn.ReLU, HiddenActivation),
    unit_dimension: int | None = None,
) -> dict[str, float]:
    """Measure a module on a batch: what the probes log of an agent's modules, under the same names.

    The ranks are of the outputs of the last hidden layer that ran. The module is run once in evaluation mode without
    gradient, and is afterwards as it was::

        measure_module(torchvision.models.resnet18(), images)["fau"]

    Args:
        module: Any module with at least one hidden activation layer; functions (``F.relu``) cannot be seen.
        *inputs: What it is called with; the first dimension is the batch.
        tau: Threshold of dormant units.
        activations: Kinds of layers whose outputs are hidden units, e.g. ``[nn.GELU]``. "Active" is above zero for all.
        unit_dimension: Dimension of the layers' outputs along which units lie; what lies along the others but the
            first are positions, as in images. None is 1, ``(batch, units)`` and ``(batch, channels, height, width)``;
            of three dimensions it has to be said: 1 of a Conv1d, ``(batch, channels, length)``, and -1 of a
            transformer, ``(batch, tokens, units)``. Give -1 for images with channels last as well.

    Returns:
        ``fau``, ``dormant/tau_<tau>``, ``linearized``, each also by layer (``fau/<layer>``,
        ``dormant/<layer>/tau_<tau>``, ``linearized/<layer>``), ``rank/<name>`` and ``weight_norm``. A layer that runs
        more than once (a ResNet shares one ReLU in a block) counts every time: ``<layer>#2`` is its second output.

    Raises:
        ValueError: When the module ran no activation layer, or one of them put out NaN or infinity, or three
            dimensions without ``unit_dimension``.
    """
    layers = _outputs(module, inputs, tuple(activations))
    if not layers:
        names = ", ".join(kind.__name__ for kind in activations)
        raise ValueError(f"{type(module).__name__} ran no hidden activation layer ({names}); name others: activations=")
    for name, output in layers.items():
        refuse_not_finite(output, "activations")
        layers[name] = _units_second(output, unit_dimension, name)
    counts = {name: active_and_total(output) for name, output in layers.items()}
    layer = lambda name: module.get_submodule(name.partition("#")[0])  # noqa: E731
    masks = {name: dormant_mask(mean_of_units(output, layer(name))[None], tau) for name, output in layers.items()}
    linear = {name: linearized_mask(output, layer(name)) for name, output in layers.items()}
    of = lambda parts: {name for name in layers if name.partition("#")[0] in submodules(module, parts=parts)}  # noqa: E731
    first, learning = of(FIRST), of(LEARNS)  # all of them, but where a head was injected
    features = spectrum([output for name, output in layers.items() if name in learning][-1])
    weights = [parameters_in_use(layer).values() for layer in submodules(module, parts=FIRST).values()]
    found: dict[str, Any] = {
        "fau": pooled_fraction([count for name, count in counts.items() if name in first]),
        **{f"fau/{name}": active / total for name, (active, total) in counts.items()},
        f"dormant/tau_{tau}": torch.cat([mask for name, mask in masks.items() if name in first]).float().mean(),
        **{f"dormant/{name}/tau_{tau}": mask.float().mean() for name, mask in masks.items()},
        "linearized": torch.cat([mask for name, mask in linear.items() if name in first]).float().mean(),
        **{f"linearized/{name}": mask.float().mean() for name, mask in linear.items()},
        **{f"rank/{name}": rank(features) for name, rank in RANKS.items()},
        "weight_norm": l2_norm(tensor for own in weights for tensor in own),
    }
    return {tag: float(value) for tag, value in found.items()}


def _units_second(output: Tensor, dimension: int | None, name: str) -> Tensor:
    """Return the output of a layer with its units along dimension 1."""
    shape = tuple(output.shape)
    if dimension is None and output.ndim == 3:
        raise ValueError(
            f"unit_dimension=None: layer {name!r} put out {shape}, whose units may lie along dimension 1 (Conv1d) or "
            "-1 (tokens of a transformer); give unit_dimension=1 or unit_dimension=-1"
        )
    dimension = 1 if dimension is None else dimension
    if dimension == 0 or not -output.ndim < dimension < output.ndim:
        raise ValueError(
            f"unit_dimension={dimension} must be a dimension of what layer {name!r} put out, {shape}, and not the "
            "first, which is the batch; give e.g. 1 or -1"
        )
    return output.movedim(dimension, 1)


@torch.no_grad()
def _outputs(module: nn.Module, inputs: Sequence[Any], kinds: tuple[type[nn.Module], ...]) -> dict[str, Tensor]:
    """Run the module once and return what its layers of these kinds put out, in the order in which they ran."""
    found: dict[str, Tensor] = {}

    def recorder(path: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def record(_: nn.Module, __: Any, output: Tensor) -> None:
            runs = 1 + sum(name.partition("#")[0] == path for name in found)
            # A layer that follows may work in place (ReLU(inplace=True)), so the output itself is not safe to keep.
            found[path if runs == 1 else f"{path}#{runs}"] = output.detach().clone()

        return record

    layers = [(path, layer) for path, layer in submodules(module).items() if isinstance(layer, kinds)]
    with evaluation_mode(module), hooked(layer.register_forward_hook(recorder(path)) for path, layer in layers):
        module(*inputs)
    return found
