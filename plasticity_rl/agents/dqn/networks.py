"""Encoders and heads of agents that learn the value of every action, parameters named as callbacks name them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from plasticity_rl.errors import UserError
from plasticity_rl.nn.noisy import NoisyLinear

CONVOLUTIONS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "nature": ((32, 8, 4), (64, 4, 2), (64, 3, 1)),
    "der": ((32, 5, 5), (64, 5, 5)),
    "mini": ((16, 8, 4), (32, 4, 2)),
    "minatar": ((16, 3, 1),),
}
"""Channels, kernel size and stride of the convolutions, by the encoder's name: Mnih et al. 2015 (for 84 pixels), van
Hasselt et al. 2019 (arXiv 1906.05243), half of the former for 42 pixels, Young & Tian 2019 (arXiv 1903.03176)."""
MLP = "mlp"
"""Name of the encoder of states: one hidden layer."""
ENCODERS = (*CONVOLUTIONS, MLP)

MakeLinear = Callable[[int, int], nn.Linear]


class ImageEncoder(nn.Module):
    """Convolutions with ReLU, flattened.

    Args:
        obs_shape: ``(channels, height, width)`` of the stacked uint8 frames.
        kind: One of ``CONVOLUTIONS``.
        num_channels: Channels of the first convolution, the others in proportion; None: the published ones.

    Raises:
        UserError: When the image is too small for the convolutions.
    """

    def __init__(self, obs_shape: tuple[int, ...], kind: str, num_channels: int | None = None) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, height, width = obs_shape
        for out, kernel, stride in scaled(kind, num_channels):
            layers += [nn.Conv2d(channels, out, kernel, stride=stride), nn.ReLU()]
            height, width = ((side - kernel) // stride + 1 for side in (height, width))
            if min(height, width) < 1:
                raise UserError(
                    f"model.encoder={kind}: images of {obs_shape[1]} x {obs_shape[2]} pixels are too small for its "
                    "convolutions; nature and der are for 84 pixels, mini for 42, minatar for 10"
                )
            channels = out
        self.convnet = nn.Sequential(*layers)
        self.repr_dim = channels * height * width

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels from 0 to 255 ``(batch, channels, height, width)`` to features ``(batch, repr_dim)``."""
        return self.convnet(pixels / 255.0).flatten(1)


class MLPEncoder(nn.Module):
    """One hidden layer on states ``(n,)``."""

    def __init__(self, obs_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(obs_dim, hidden_dim), nn.ReLU())
        self.repr_dim = hidden_dim

    def forward(self, state: Tensor) -> Tensor:
        """Map states ``(batch, n)`` to features ``(batch, hidden_dim)``."""
        return self.mlp(state)


def scaled(kind: str, num_channels: int | None) -> list[tuple[int, int, int]]:
    """Return the convolutions of an encoder with another number of channels of the first, the others in proportion."""
    published = CONVOLUTIONS[kind]
    factor = 1.0 if num_channels is None else num_channels / published[0][0]
    return [(max(1, round(channels * factor)), kernel, stride) for channels, kernel, stride in published]


class ActionValues(nn.Module):
    """The value of every action, as a number or as logits over atoms; with dueling streams or one.

    Args:
        repr_dim: Size of the features.
        num_actions: Number of actions.
        num_atoms: Atoms of each action's distribution; 1: a number.
        hidden_dim: Width of the hidden layer of each stream.
        dueling: Whether ``value`` and ``advantage`` are streams of their own (Wang et al. 2016, arXiv 1511.06581).
        linear: Makes a layer of its sizes.
    """

    def __init__(
        self, repr_dim: int, num_actions: int, num_atoms: int, hidden_dim: int, dueling: bool, linear: MakeLinear
    ) -> None:
        super().__init__()
        self.num_atoms = num_atoms
        self.advantage = stream(repr_dim, hidden_dim, num_actions * num_atoms, linear)
        self.value = stream(repr_dim, hidden_dim, num_atoms, linear) if dueling else None

    def forward(self, features: Tensor) -> Tensor:
        """Map features ``(batch, repr_dim)`` to values or logits ``(batch, num_actions, num_atoms)``.

        Of dueling streams that is ``V + A - mean of A over the actions`` (Eq. 9), for every atom.
        """
        values = self.advantage(features).unflatten(-1, (-1, self.num_atoms))
        if self.value is None:
            return values
        return self.value(features)[:, None, :] + values - values.mean(1, keepdim=True)


def stream(in_dim: int, hidden_dim: int, out_dim: int, linear: MakeLinear) -> nn.Sequential:
    """Return one hidden ReLU layer and a linear output: layers 0 and 2."""
    return nn.Sequential(linear(in_dim, hidden_dim), nn.ReLU(), linear(hidden_dim, out_dim))


@torch.no_grad()
def init_weights(layer: nn.Module, generator: torch.Generator | None = None) -> None:
    """Initialise one layer in place: weights and biases uniform within one by the root of the fan-in, as torch does.

    That is what the published agents do (Mnih et al. 2015); of noisy layers the means, and the noise as at first.

    Args:
        layer: Any module; only its own parameters are touched, never those of its children.
        generator: Source of the random numbers, or torch's default generator.
    """
    if isinstance(layer, nn.Linear | nn.Conv2d):
        bound = 1.0 / math.sqrt(layer.weight[0].numel())
        nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
        if layer.bias is not None:
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    elif isinstance(layer, nn.LayerNorm) and layer.elementwise_affine:
        nn.init.ones_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    if isinstance(layer, NoisyLinear):
        layer.reset_sigma()


def count_parameters(
    obs_shape: tuple[int, ...],
    num_actions: int,
    encoder: str,
    num_channels: int | None,
    hidden_dim: int,
    num_atoms: int,
    *,
    streams: int,
    per_weight: int,
) -> int:
    """Return how many parameters the networks will have, without building them: they may be too large.

    Args:
        obs_shape: ``(channels, height, width)`` of images that are large enough, or ``(n,)`` of states.
        num_actions: Number of actions.
        encoder: One of ``ENCODERS``.
        num_channels: As of :class:`ImageEncoder`.
        hidden_dim: Width of the hidden layers.
        num_atoms: Atoms of each action's distribution.
        streams: 2 of dueling ones, else 1.
        per_weight: 2 of noisy layers, else 1.
    """
    if encoder == MLP:
        repr_dim, count = hidden_dim, (obs_shape[0] + 1) * hidden_dim
    else:
        (channels, height, width), count = obs_shape, 0
        for out, kernel, stride in scaled(encoder, num_channels):
            count += (channels * kernel * kernel + 1) * out
            channels, height, width = out, (height - kernel) // stride + 1, (width - kernel) // stride + 1
        repr_dim = channels * max(height, 0) * max(width, 0)
    outputs = (num_actions + streams - 1) * num_atoms
    head = streams * (repr_dim + 1) * hidden_dim + (hidden_dim + 1) * outputs
    return count + per_weight * head
