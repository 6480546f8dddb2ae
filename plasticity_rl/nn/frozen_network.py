"""An encoder that is not trained: a network on single frames, with a small trainable layer on top."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from plasticity_rl.errors import UserError
from plasticity_rl.nn.pretrained import IMAGENET_MEAN, IMAGENET_STD


class FrozenNetwork(nn.Module):
    """Encode every frame of a stack with a frozen network, and project frames and their differences.

    ``features = LayerNorm(Linear(flatten([f_2, ..., f_T, f_2 - f_1, ..., f_T - f_(T-1)])))`` with the maps f_t of the T
    stacked frames; with T = 1, of that frame alone. Only Linear and LayerNorm (``projection``) are trained, which have
    no hidden units. The layers of the frozen network see ``batch * T`` frames, those of an observation together.

    The frozen network stays in evaluation mode whatever ``train()`` is called with, so that batch norm uses its running
    statistics and does not move them, and acting and updates see the same features; see :meth:`batch_statistics`.

    Args:
        network: Maps images ``(batch, 3, h, w)`` to maps ``(batch, channels, h', w')``; its parameters are frozen here.
        obs_shape: ``(3 * frames, height, width)`` of the observations.
        feature_dim: Width of the output.
        normalize: ``published``: pixels in [-0.5, 0.5]; ``imagenet``: pixels in [0, 1] less ``mean``, over ``std``.
        centred: Whether the agent hands on ``pixels / 255 - 0.5`` and not pixels from 0 to 255. The type does not tell:
            augmentation makes floats of pixels.
        mean: Mean of red, green and blue that the network was trained with, of pixels in [0, 1].
        std: Their standard deviation.

    Raises:
        UserError: When the channels are no multiple of 3.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        obs_shape: tuple[int, ...],
        feature_dim: int,
        normalize: Literal["published", "imagenet"] = "published",
        *,
        centred: bool = False,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        if obs_shape[0] % 3:
            raise UserError(f"a pretrained encoder needs RGB frames, but {obs_shape[0]} channels are no multiple of 3")
        self.network = network.requires_grad_(False)
        self.repr_dim = feature_dim
        self.normalize, self.centred = normalize, centred
        self._batch_statistics = False
        # Constants, not part of the state: loading a checkpoint of another setting must not change them.
        for name, values in {"mean": mean, "std": std}.items():
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        self.network.eval()
        map_dim = math.prod(self.maps(torch.zeros(1, *obs_shape)).shape)
        self.projection = nn.Sequential(nn.Linear(map_dim, feature_dim), nn.LayerNorm(feature_dim))

    def batch_statistics(self, on: bool) -> None:
        """Let batch norm use the statistics of each batch, and move its running ones, or not."""
        self._batch_statistics = on
        self.network.train(on)

    def train(self, mode: bool = True) -> FrozenNetwork:
        """Set the mode of all but the frozen network, which follows only where batch statistics are on."""
        super().train(mode)
        self.network.train(mode and self._batch_statistics)
        return self

    def maps(self, pixels: Tensor) -> Tensor:
        """Return the maps of frames and differences, ``(batch, maps * channels, h', w')``.

        They have no gradient, because nothing before them has one.

        Args:
            pixels: ``(batch, 3 * frames, height, width)``, uint8 or float, from 0 to 255; or in [-0.5, 0.5] from an
                agent that centres them.
        """
        if not self.centred:
            pixels = pixels.to(self.mean.dtype) / 255.0 - 0.5
        frames = pixels.unflatten(1, (-1, 3))
        if self.normalize == "imagenet":
            frames = (frames + 0.5 - self.mean) / self.std
        maps = self.network(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])  # (batch, frames, channels, h', w')
        if frames.shape[1] > 1:
            maps = torch.cat([maps[:, 1:], maps[:, 1:] - maps[:, :-1]], dim=1)
        return maps.flatten(1, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels, as in :meth:`maps`, to features ``(batch, feature_dim)``."""
        return self.projection(self.maps(pixels).flatten(1))
