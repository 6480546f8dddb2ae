"""Layers that compute with a function of their weight, while the weight itself stays a plain parameter of its name.

``torch.nn.utils.parametrize`` would rename it to ``parametrizations.weight.original`` and hand out a computed tensor as
``weight``: re-initialising that in place changes nothing, and an intervention would silently do nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plasticity_rl.errors import UserError
from plasticity_rl.losses import largest_singular_value
from plasticity_rl.nn.precision import full_precision

FIRST_ITERATIONS = 15
"""Power iterations at the start; one per training pass follows."""


class _Transformed:
    transforms: nn.ModuleList
    weight: Tensor

    @property
    def effective_weight(self) -> Tensor:
        """The weight that the layer computes with."""
        return self.transformed(self.weight)

    def transformed(self, weight: Tensor) -> Tensor:
        """Return what the layer would compute with if it held ``weight``."""
        for transform in self.transforms:
            weight = transform(weight)
        return weight


class TransformedLinear(_Transformed, nn.Linear):
    """A linear layer with transforms of its weight."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x @ effective_weight.T + bias``."""
        return F.linear(x, self.effective_weight, self.bias)


class TransformedConv2d(_Transformed, nn.Conv2d):
    """A convolution with transforms of its weight."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with the effective weight."""
        return self._conv_forward(x, self.effective_weight, self.bias)


def weight_in_use(layer: nn.Module, held: Tensor | None = None) -> Tensor:
    """Return the weight that a layer computes with: what is measured, compared and penalised.

    With gradient to the layer's parameter, so that a pruned weight gets none; no estimate inside a transform moves.

    Args:
        layer: Linear or convolutional layer.
        held: Weight to be used in the place of the layer's own parameter, such as one of an average.
    """
    raw = layer.get_parameter("weight") if held is None else held
    if not isinstance(layer, _Transformed):
        return raw
    training = [module for module in layer.transforms.modules() if module.training]
    try:
        for module in training:
            module.training = False
        return layer.transformed(raw)
    finally:
        for module in training:
            module.training = True


def parameters_in_use(layer: nn.Module) -> dict[str, Tensor]:
    """Return the layer's own parameters by name, its weight as :func:`weight_in_use`."""
    own: dict[str, Tensor] = dict(layer.named_parameters(recurse=False))
    if isinstance(layer, _Transformed):
        own["weight"] = weight_in_use(layer)
    return own


def masks_of(layer: nn.Module) -> list[FixedMask]:
    """Return the masks of a layer's weight; none of a layer that is not pruned."""
    transforms = layer.transforms if isinstance(layer, _Transformed) else ()
    return [transform for transform in transforms if isinstance(transform, FixedMask)]


def is_thinned_out(layer: nn.Module) -> bool:
    """Return whether some weights of a layer are pruned."""
    return any(not transform.mask.all() for transform in masks_of(layer))


@torch.no_grad()
def prune_again(layer: nn.Module) -> None:
    """Set the pruned weights of a layer to zero, whatever was written there; of a layer without a mask nothing."""
    for transform in masks_of(layer):
        layer.get_parameter("weight").masked_fill_(~transform.mask, 0.0)


def add_transform(layer: nn.Module, transform: nn.Module) -> None:
    """Let ``layer`` (Linear or Conv2d) compute with ``transform(weight)``, after the transforms it already has.

    The layer keeps its identity, parameters and place in the network; only its class changes, as with torch's own
    parametrizations.

    Raises:
        UserError: When the layer is of another kind.
    """
    if not isinstance(layer, _Transformed):
        if type(layer) is nn.Linear:
            layer.__class__ = TransformedLinear
        elif type(layer) is nn.Conv2d:
            layer.__class__ = TransformedConv2d
        else:
            raise UserError(
                f"the weights of a {type(layer).__name__} cannot be pruned or normalised, only those of linear and "
                "convolutional layers: name modules without it (of DQN's noisy layers: --model.noisy_sigma 0)"
            )
        layer.transforms = nn.ModuleList()
    assert isinstance(layer.transforms, nn.ModuleList)
    layer.transforms.append(transform)


class FixedMask(nn.Module):
    """Multiplies a weight by a fixed 0/1 mask, a buffer of its shape.

    Args:
        mask: Bool; True is kept.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the masked weight; masked elements get the gradient zero."""
        return weight * self.mask


class GrowingMask(FixedMask):
    """A mask that holds nothing back at first and loses elements at events, in place; none comes back."""

    def prune(self, kept: Tensor) -> None:
        """Let the elements count no longer that are not ``kept``, a bool tensor of the mask's shape."""
        self.mask.logical_and_(kept)


class MovingMask(FixedMask):
    """A mask whose elements come and go at events, in place."""

    def move(self, kept: Tensor) -> None:
        """Let just the elements count that are ``kept``, a bool tensor of the mask's shape."""
        self.mask.copy_(kept)


def restart_estimates(module: nn.Module) -> None:
    """Let the spectral estimates in a module catch up with weights that have changed at once."""
    for layer in module.modules():
        for transform in getattr(layer, "transforms", ()):
            if isinstance(transform, SpectralNormalization):
                transform.restart(layer.get_parameter("weight"))


class SpectralNormalization(nn.Module):
    """Divides a weight by its largest singular value, estimated by one power iteration per pass in training mode.

    Convolution kernels count as matrices ``(out, in * height * width)``.

    Args:
        weight: Weight that it is made for, to start the estimate at.
        generator: CPU generator of the first vector.

    Source:
        Miyato et al. 2018 (arXiv 1802.05957), Algorithm 1.
    """

    left: Tensor

    def __init__(self, weight: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        first = F.normalize(torch.randn(len(weight), generator=generator), dim=0)
        self.register_buffer("left", first.to(weight.device, weight.dtype))
        self.restart(weight)

    @torch.no_grad()
    def restart(self, weight: Tensor) -> None:
        """Let the estimate catch up with a weight that has changed at once."""
        for _ in range(FIRST_ITERATIONS):
            self.left.copy_(largest_singular_value(weight.flatten(1), self.left)[1])

    def forward(self, weight: Tensor) -> Tensor:
        """Return ``weight / sigma``, with gradient through sigma; a zero weight stays zero."""
        with full_precision(weight.device):  # bfloat16 would round sigma, and the estimate, to 3 digits
            # A copy: the buffer moves in place at the next pass, which may come before this one's backward.
            sigma, following = largest_singular_value(weight.flatten(1), self.left.clone())
        if self.training:
            self.left.copy_(following)
        # Not a tiny number where it is 0 (all inputs were silenced): the gradient would be infinite.
        return weight / torch.where(sigma > torch.finfo(sigma.dtype).tiny, sigma, torch.ones_like(sigma))
