"""DrQ-v2's encoder, actor and critic (Yarats et al. 2021, arXiv 2107.09645), parameters in the published order."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from plasticity_rl.agents.sizes import refuse_shape
from plasticity_rl.errors import UserError
from plasticity_rl.nn.blocks import count_mlp_parameters, init_weights, mlp, trunk
from plasticity_rl.nn.precision import in_full_precision, reduced, widen

MIN_IMAGE_SIZE = 15
"""Smallest image side, in pixels, that four 3x3 convolutions (the first with stride 2) leave at least one pixel of."""


class Encoder(nn.Module):
    """Four 3x3 convolutions with ReLU, flattened.

    Args:
        obs_shape: ``(channels, height, width)`` of the stacked uint8 frames; height and width of at least 15 pixels.
        num_channels: Channels of each convolution (published: 32).

    Raises:
        UserError: When the image is too small for the convolutions.
    """

    def __init__(self, obs_shape: tuple[int, int, int], num_channels: int = 32) -> None:
        super().__init__()
        channels, height, width = obs_shape
        if min(height, width) < MIN_IMAGE_SIZE:
            raise UserError(
                f"image_size={min(height, width)} is too small for the encoder: "
                f"its four convolutions need at least {MIN_IMAGE_SIZE} pixels (published: --data.image_size 84)"
            )
        self.convnet = nn.Sequential(
            nn.Conv2d(channels, num_channels, 3, stride=2),
            nn.ReLU(),
            nn.Conv2d(num_channels, num_channels, 3),
            nn.ReLU(),
            nn.Conv2d(num_channels, num_channels, 3),
            nn.ReLU(),
            nn.Conv2d(num_channels, num_channels, 3),
            nn.ReLU(),
        )
        self.repr_dim = num_channels * ((height - 3) // 2 + 1 - 6) * ((width - 3) // 2 + 1 - 6)
        self.apply(init_weights)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels from 0 to 255 ``(batch, channels, height, width)`` to features ``(batch, repr_dim)``.

        Under autocast the convolutions run channels-last: what tensor cores and bfloat16 kernels want. The features
        are in the same order either way.
        """
        if not reduced(pixels.device):
            return self.convnet((pixels / 255.0).sub_(0.5)).flatten(1)
        pixels = pixels.contiguous(memory_format=torch.channels_last)  # while it is uint8, half of the bytes
        return _FlattenChannelsLast.apply(self.convnet(_centre_in_bfloat16(pixels)))


def _centre_in_bfloat16(pixels: Tensor) -> Tensor:
    """Return ``pixels / 255 - 0.5`` as bfloat16, rounded as float32 would be, but of bytes without its memory traffic.

    ``(2 p - 255) / 510`` is rounded once: bfloat16 holds 8 bits, as many as the numerator has.
    """
    if pixels.dtype == torch.uint8:
        return pixels.bfloat16().mul_(2).sub_(255).div_(510)
    return (pixels / 255.0).sub_(0.5).bfloat16()


class _FlattenChannelsLast(torch.autograd.Function):
    """``maps.flatten(1)`` with a gradient in the layout of channels-last ``maps``: faster for the ReLU before."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        ctx.shape = maps.shape
        return maps.flatten(1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.view(ctx.shape).contiguous(memory_format=torch.channels_last)


class StateEncoder(nn.Module):
    """Stands for the encoder where observations are state vectors: passes them on, and has no parameters.

    Args:
        obs_shape: ``(n,)``.
    """

    def __init__(self, obs_shape: tuple[int, ...]) -> None:
        super().__init__()
        (self.repr_dim,) = obs_shape

    def forward(self, state: Tensor) -> Tensor:
        """Return the float32 state ``(batch, n)`` itself."""
        return state


def encoder_for(obs_shape: tuple[int, ...], num_channels: int) -> Encoder | StateEncoder:
    """Return the encoder of images ``(channels, height, width)`` or of states ``(n,)``.

    Raises:
        UserError: For a shape of another kind, or an image that is too small.
    """
    refuse_shape(obs_shape)
    if len(obs_shape) == 1:
        return StateEncoder(obs_shape)
    channels, height, width = obs_shape
    return Encoder((channels, height, width), num_channels)


def count_parameters(
    obs_shape: tuple[int, ...], action_dim: int, feature_dim: int, hidden_dim: int, num_channels: int
) -> dict[str, int]:
    """Return how many parameters encoder, actor and critic will have, without building them: they may be too large.

    Args:
        obs_shape: ``(channels, height, width)`` of images of at least 15 pixels, or ``(n,)`` of states.
        action_dim: Number of action dimensions.
        feature_dim: Width of the trunk's output.
        hidden_dim: Width of the hidden layers.
        num_channels: Channels of each convolution.
    """
    encoder, repr_dim = 0, math.prod(obs_shape)
    if len(obs_shape) == 3:
        channels, height, width = obs_shape
        encoder = (9 * channels + 1) * num_channels + 3 * (9 * num_channels + 1) * num_channels
        repr_dim = num_channels * ((height - 3) // 2 - 5) * ((width - 3) // 2 - 5)
    narrowing = (repr_dim + 1) * feature_dim + 2 * feature_dim  # a layer and its norm
    actor = narrowing + count_mlp_parameters(feature_dim, hidden_dim, action_dim)
    critic = narrowing + 2 * count_mlp_parameters(feature_dim + action_dim, hidden_dim, 1)
    return {"encoder": encoder, "actor": actor, "critic": critic}


class Actor(nn.Module):
    """Deterministic policy mean in [-1, 1]; exploration noise is added by :func:`noisy_action`."""

    def __init__(self, repr_dim: int, action_dim: int, feature_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.trunk = trunk(repr_dim, feature_dim)
        self.policy = mlp(feature_dim, hidden_dim, action_dim)
        self.apply(init_weights)

    def forward(self, features: Tensor) -> Tensor:
        """Map features ``(batch, repr_dim)`` to the mean action ``(batch, action_dim)``."""
        return torch.tanh(in_full_precision(self.policy, self.trunk(features)))


class Critic(nn.Module):
    """Two Q-functions on one shared trunk."""

    def __init__(self, repr_dim: int, action_dim: int, feature_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.trunk = trunk(repr_dim, feature_dim)
        self.Q1 = mlp(feature_dim + action_dim, hidden_dim, 1)
        self.Q2 = mlp(feature_dim + action_dim, hidden_dim, 1)
        self.apply(init_weights)

    def forward(self, features: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return both values, each ``(batch, 1)``, of ``action`` ``(batch, action_dim)``; or logits of bins."""
        h = torch.cat([widen(self.trunk(features)), action], dim=-1)
        return in_full_precision(self.Q1, h), in_full_precision(self.Q2, h)


def noisy_action(
    mean: Tensor, stddev: float | Tensor, clip: float | None, generator: torch.Generator | None = None
) -> Tensor:
    """Add Gaussian exploration noise and clamp into the open interval (-1, 1), gradient passing straight through.

    Not a draw from a true truncated normal: the published agent clips noise and result, and so does this.

    Args:
        mean: ``(batch, action_dim)`` in [-1, 1].
        stddev: Standard deviation of the noise, in units of the action.
        clip: Largest absolute noise, or None for no limit (acting in the environment does not clip the noise).
        generator: Source of the noise, on the device of ``mean``.

    Returns:
        Actions ``(batch, action_dim)``; the gradient with respect to ``mean`` is the identity.
    """
    noise = stddev * torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    if clip is not None:
        noise = noise.clamp(-clip, clip)
    noisy = mean + noise
    clamped = noisy.clamp(-1.0 + 1e-6, 1.0 - 1e-6)
    return noisy - noisy.detach() + clamped.detach()
