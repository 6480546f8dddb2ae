"""Image augmentation: pure functions on batches, and the kinds that an agent's ``augmentations`` can name.

Images are ``(batch, 3 * stack, height, width)`` with values from 0 to 255: the stacked RGB frames of one observation
share every random number, those of different observations do not.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plasticity_rl.errors import UserError, at_least, within


def random_shift(images: Tensor, pad: int, generator: torch.Generator | None = None) -> Tensor:
    """Shift every image by its own random whole number of pixels, repeating the border (DrQ-v2's augmentation).

    Same distribution and same result as the published "replicate-pad by ``pad``, then bilinear crop back at an integer
    offset", without its float interpolation: at integer offsets bilinear sampling only copies pixels (up to float
    rounding there, exact here), so one gather on uint8 suffices.

    Args:
        images: ``(batch, channels, height, width)``, any dtype.
        pad: Largest shift in pixels, in each direction; 0 returns the images unchanged.
        generator: Source of the offsets, on the images' device.

    Returns:
        Shifted images, same shape and dtype. All channels (stacked frames) of one image move together.

    Source:
        Yarats et al. 2021 (arXiv 2107.09645), section 3.1.
    """
    if pad == 0:
        return images
    offsets = torch.randint(0, 2 * pad + 1, (2, images.shape[0], 1), generator=generator, device=images.device)
    return shift(images, offsets[0] - pad, offsets[1] - pad)


def refuse_large_shift(pad: int, obs_shape: tuple[int, ...], option: str) -> None:
    """Raise UserError when images ``(channels, height, width)`` could be shifted until nothing but a border is left."""
    if len(obs_shape) == 3 and pad >= min(obs_shape[1:]):
        raise UserError(
            f"{option}={pad} must be less than the {min(obs_shape[1:])} pixels of the image: shifts by all of it leave "
            "nothing but its border (published: 4 of 84)"
        )


def shift(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Read each image ``down`` rows below and ``right`` columns beside, repeating the border.

    Args:
        images: ``(batch, channels, height, width)``.
        down: ``(batch, 1)`` whole pixels, may be negative.
        right: ``(batch, 1)`` whole pixels, may be negative.

    Returns:
        Tensor of the same shape and dtype: ``out[b, c, y, x] = images[b, c, clamp(y + down_b), clamp(x + right_b)]``.
    """
    batch, channels, height, width = images.shape
    rows = (torch.arange(height, device=images.device) + down).clamp_(0, height - 1)  # (batch, height)
    cols = (torch.arange(width, device=images.device) + right).clamp_(0, width - 1)  # (batch, width)
    # One gather over flattened pixels: 4x faster than a gather per axis, 10x than grid_sample on floats.
    pixel = (rows[:, :, None] * width + cols[:, None, :]).view(batch, 1, height * width)
    return images.flatten(2).gather(2, pixel.expand(-1, channels, -1)).view_as(images)


def convolve(images: Tensor, kernels: Tensor) -> Tensor:
    """Filter every image with a kernel of its own, all of its stacked RGB frames with the same one.

    Args:
        images: ``(batch, 3 * stack, height, width)``, values from 0 to 255.
        kernels: ``(batch, 3, 3, k, k)``, k odd: output channel, input channel, rows, columns.

    Returns:
        float32 ``(batch, 3 * stack, height, width)`` = ``255 * sigmoid(kernel * image / 255)``, the border repeated.
    """
    batch, channels, height, width = images.shape
    side = kernels.shape[-1]
    # Frames become the batch and observations the groups of one convolution: no loop over the batch.
    frames = (images.float() / 255.0).view(batch, channels // 3, 3, height, width).transpose(0, 1)
    padded = F.pad(frames.reshape(channels // 3, batch * 3, height, width), [side // 2] * 4, mode="replicate")
    filtered = F.conv2d(padded, kernels.reshape(batch * 3, 3, side, side), groups=batch)
    out = filtered.view(channels // 3, batch, 3, height, width).transpose(0, 1)
    return 255.0 * torch.sigmoid(out.reshape(images.shape))


class Augmentation(nn.Module):
    """Base of augmentations that work on whole batches and draw from a generator they are given."""

    def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return images of the same shape, values from 0 to 255.

        Args:
            images: uint8, or float32 after a stage that made floats; ``(batch, 3 * stack, height, width)``.
            generator: Source of all random numbers, on the images' device.
        """
        raise NotImplementedError


class RandomShift(Augmentation):
    """DrQ-v2's random shift by whole pixels, see :func:`random_shift`; keeps uint8.

    Args:
        pad: Largest shift in pixels, in each direction.

    Raises:
        UserError: When ``pad`` is negative.
    """

    def __init__(self, pad: int = 4) -> None:
        super().__init__()
        at_least("RandomShift.pad", pad, 0, " (published: 4)")
        self.pad = pad

    def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return shifted images, same dtype."""
        return random_shift(images, self.pad, generator)


class IntensityJitter(Augmentation):
    """Multiply each image by a factor of its own, ``1 + scale * clip(N(0, 1), -2, 2)``.

    Source: Kostrikov et al. 2021 (arXiv 2004.13649), appendix G, for Atari. As there, products above 255 stay.

    Args:
        scale: Standard deviation of the factor before it is clipped; published: 0.05.

    Raises:
        UserError: When ``scale`` is negative.
    """

    def __init__(self, scale: float = 0.05) -> None:
        super().__init__()
        within("IntensityJitter.scale", scale, "[0, inf)", " (published: 0.05)")
        self.scale = scale

    def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return float32 images; all channels (stacked frames) of one have the same factor."""
        noise = torch.randn((images.shape[0], 1, 1, 1), generator=generator, device=images.device)
        return images * (1.0 + self.scale * noise.clamp_(-2.0, 2.0))


class RandomConv(Augmentation):
    """Filter each image with a random 3x3 convolution of its own (Lee et al. 2020, arXiv 1910.05396).

    Kernels are drawn from Xavier's normal distribution, ``N(0, 2 / (27 + 27))``. Differences from the original: a
    kernel for every image instead of one for the batch, borders repeated instead of zeros, and a sigmoid that keeps
    values in (0, 255), as in Hansen & Wang 2021 (arXiv 2011.13389).

    Args:
        p: Probability that an image is filtered, in [0, 1]; published: 0.9.

    Raises:
        UserError: When ``p`` is no probability.
    """

    def __init__(self, p: float = 0.9) -> None:
        super().__init__()
        within("RandomConv.p", p, "[0, 1]")
        self.p = p

    def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return float32 images, filtered or as they were."""
        batch, device = images.shape[0], images.device
        kernels = torch.randn((batch, 3, 3, 3, 3), generator=generator, device=device) * (2 / (27 + 27)) ** 0.5
        chosen = torch.rand((batch, 1, 1, 1), generator=generator, device=device) < self.p
        return torch.where(chosen, convolve(images, kernels), images.float())


def old_kornia() -> str:
    """Return the version of kornia that is installed if it is 0.8, or an empty string."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # KorniaAugmentation.kornia says so
        found = importlib.metadata.version("kornia")
        return found if found.startswith("0.8.") else ""
    return ""


class KorniaAugmentation(nn.Module):
    """Base of the short names for kornia's transforms, which are built once the image size is known."""

    def build(self, height: int, width: int) -> nn.Module:
        """Return kornia's transform for images of this size in pixels."""
        raise NotImplementedError

    def kornia(self, name: str, **options: Any) -> nn.Module:
        """Return ``kornia.augmentation.<name>(**options)``.

        Raises:
            UserError: When kornia is not installed.
        """
        try:
            module = importlib.import_module("kornia.augmentation")
        except ImportError as error:
            kind = type(self).__name__
            raise UserError(f"{kind} needs kornia: install it with `pip install 'plasticity-rl[augment]'`") from error
        return getattr(module, name)(**options)


class RandomCropResize(KorniaAugmentation):
    """Crop a random part of each image and enlarge it to the whole: kornia's ``RandomResizedCrop``.

    Args:
        scale: Smallest and largest share of the area that is kept, in (0, 1].
        ratio: Smallest and largest width / height of the part.
        p: Probability for an image.
    """

    def __init__(
        self, scale: tuple[float, float] = (0.5, 1.0), ratio: tuple[float, float] = (0.75, 4 / 3), p: float = 1.0
    ) -> None:
        super().__init__()
        self.options = {"scale": tuple(scale), "ratio": tuple(ratio), "p": p}

    def build(self, height: int, width: int) -> nn.Module:
        """Return the crop that ends in this size; ``resample`` does the whole batch at once."""
        return self.kornia("RandomResizedCrop", size=(height, width), cropping_mode="resample", **self.options)


class ColorJitter(KorniaAugmentation):
    """Random brightness, contrast, saturation and hue, in random order: kornia's ``ColorJitter``.

    Args:
        brightness: Largest relative change of brightness, in [0, 1].
        contrast: Largest relative change of contrast, in [0, 1].
        saturation: Largest relative change of saturation, in [0, 1].
        hue: Largest change of hue as a share of the colour circle, in [0, 0.5].
        p: Probability for an image.
    """

    def __init__(
        self,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.5,
        p: float = 1.0,
    ) -> None:
        super().__init__()
        self.options = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue, "p": p}

    def build(self, height: int, width: int) -> nn.Module:
        """Return kornia's transform."""
        return self.kornia("ColorJitter", **self.options)


class Cutout(KorniaAugmentation):
    """Blank a random rectangle of each image: kornia's ``RandomErasing``.

    Args:
        scale: Smallest and largest share of the area that is blanked, in (0, 1].
        ratio: Smallest and largest width / height of the rectangle.
        value: What it is filled with: 0 is black, 1 is white.
        p: Probability for an image.
    """

    def __init__(
        self,
        scale: tuple[float, float] = (0.02, 0.33),
        ratio: tuple[float, float] = (0.3, 3.3),
        value: float = 0.0,
        p: float = 1.0,
    ) -> None:
        super().__init__()
        self.options = {"scale": tuple(scale), "ratio": tuple(ratio), "value": value, "p": p}

    def build(self, height: int, width: int) -> nn.Module:
        """Return kornia's transform."""
        return self.kornia("RandomErasing", **self.options)


class MixUp(KorniaAugmentation):
    """Blend each image with another one of the batch: kornia's ``RandomMixUpV2``, with no targets mixed.

    Args:
        share: Smallest and largest weight of the other image, in [0, 1].
        p: Probability for an image.
    """

    def __init__(self, share: tuple[float, float] = (0.0, 0.5), p: float = 1.0) -> None:
        super().__init__()
        self.share, self.p = tuple(share), p

    def build(self, height: int, width: int) -> nn.Module:
        """Return kornia's transform of images alone."""
        return self.kornia("RandomMixUpV2", lambda_val=self.share, p=self.p, data_keys=["input"])


class CutMix(KorniaAugmentation):
    """Paste a random rectangle of another image of the batch: kornia's ``RandomCutMixV2``, with no targets mixed.

    Needs kornia 0.9, hence Python 3.11.

    Args:
        cut_size: Smallest and largest share of a side that is replaced, in [0, 1].
        p: Probability for an image.
    """

    def __init__(self, cut_size: tuple[float, float] = (0.0, 0.5), p: float = 1.0) -> None:
        super().__init__()
        self.cut_size, self.p = tuple(cut_size), p

    def build(self, height: int, width: int) -> nn.Module:
        """Return kornia's transform of images alone.

        Raises:
            UserError: With kornia 0.8, whose own of that name takes no videos.
        """
        if old := old_kornia():
            raise UserError(f"CutMix needs kornia 0.9, hence Python 3.11, and {old} is installed: try MixUp")
        # ``use_correct_lambda`` concerns labels, of which there are none; without it kornia 0.9 warns.
        return self.kornia(
            "RandomCutMixV2", cut_size=self.cut_size, p=self.p, data_keys=["input"], use_correct_lambda=True
        )
