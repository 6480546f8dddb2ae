"""Several augmentations one after the other, each called the way its library wants it."""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from plasticity_rl.augment.transforms import (
    Augmentation,
    KorniaAugmentation,
    RandomShift,
    old_kornia,
    refuse_large_shift,
)
from plasticity_rl.errors import UserError
from plasticity_rl.rng import NamedGenerators


class AugmentationChain:
    """Applies augmentations in the given order to uint8 images ``(batch, 3 * stack, height, width)``.

    Between two of them values go from 0 to 255: uint8 as long as every stage keeps it (random shift alone: exact),
    float32 from the first stage on that does not. All frames of one observation get the same random parameters,
    different observations different ones:

    - an :class:`~plasticity_rl.augment.Augmentation` gets the batch and the named generator ``augment``;
    - a transform of kornia gets the batch as videos of RGB frames in [0, 1] (``VideoSequential``,
      ``same_on_frame=True``);
    - any other module, such as one of ``torchvision.transforms.v2``, gets one observation at a time as float32 RGB
      frames ``(stack, 3, height, width)`` in [0, 1], because it draws once a call. For a batch of 256 that costs 256
      calls.

    The last two draw from torch's own generators. Those are seeded for the call with a number of the named CPU
    generator ``augment_seed`` (so a GPU is not waited for) and set back afterwards.

    Args:
        stages: Augmentations in order; none leaves images as they are.
        obs_shape: ``(3 * stack, height, width)``.

    Raises:
        UserError: When one of them does not work on such images or changes their shape.
    """

    def __init__(self, stages: Sequence[nn.Module], obs_shape: tuple[int, ...]) -> None:
        for stage in stages:
            refuse_unusable(stage, obs_shape)
        built = [stage.build(*obs_shape[1:]) if isinstance(stage, KorniaAugmentation) else stage for stage in stages]
        self.is_kornia = [is_kornia(stage) for stage in built]
        if any(self.is_kornia) and obs_shape[1] != obs_shape[2] and (old := old_kornia()):
            raise UserError(
                f"model.augmentations: kornia {old} takes height for width, and images here are {obs_shape[1]} x "
                f"{obs_shape[2]}: use kornia 0.9, which needs Python 3.11, or square images"
            )
        # No submodule of the agent: augmentations are neither trained nor saved.
        self.stages = [as_video_transform(stage) if is_kornia(stage) else stage for stage in built]
        self._device = torch.device("cpu")
        self._try_on(stages, obs_shape)

    def __call__(self, images: Tensor, generators: NamedGenerators) -> Tensor:
        """Return augmented images: uint8 if every stage keeps it, else float32 from 0 to 255.

        Args:
            images: uint8 ``(batch, 3 * stack, height, width)``; not modified.
            generators: Where random numbers come from.
        """
        if images.device != self._device:  # for a transform with constants of its own
            self.stages = [stage.to(images.device) for stage in self.stages]
            self._device = images.device
        for index in range(len(self.stages)):
            images = self._run_stage(index, images, generators)
        return images

    def _run_stage(self, index: int, images: Tensor, generators: NamedGenerators) -> Tensor:
        stage = self.stages[index]
        if isinstance(stage, Augmentation):
            return stage(images, generators.get_own("augment", images.device))
        batch, channels, height, width = images.shape
        videos = (images.float() / 255.0).view(batch, channels // 3, 3, height, width)
        with seeded_globally(generators.get_own("augment_seed"), images.device):
            out = stage(videos) if self.is_kornia[index] else torch.stack([stage(video) for video in videos])
        if out.shape != videos.shape:
            raise ValueError(f"it returns {tuple(out.shape[1:])} for frames {tuple(videos.shape[1:])}")
        return (out.clamp(0.0, 1.0) * 255.0).reshape(images.shape)

    def _try_on(self, stages: Sequence[nn.Module], obs_shape: tuple[int, ...]) -> None:
        images = torch.randint(0, 256, (2, *obs_shape), dtype=torch.uint8, generator=torch.Generator())
        for index, stage in enumerate(stages):
            try:
                out = self._run_stage(index, images, NamedGenerators(0))
                reason = "" if out.shape == images.shape else f"it returns {tuple(out.shape)} for {tuple(images.shape)}"
            except Exception as error:  # whatever another library's transform raises
                reason = " ".join(str(error).split()).rstrip(".")[:200]
            if reason:
                raise UserError(
                    f"model.augmentations: {type(stage).__name__} does not work on images of shape {obs_shape}: "
                    f"{reason}; it must take RGB frames in [0, 1] and keep their size (list a container's members "
                    "instead of the container)"
                )


def refuse_unusable(stage: object, obs_shape: tuple[int, ...]) -> None:
    """Raise UserError for what is no module, and for frames that are not RGB."""
    if not isinstance(stage, nn.Module):
        raise UserError(
            f"model.augmentations: {stage!r} is not a torch module, such as plasticity_rl.augment.RandomShift"
        )
    if isinstance(stage, RandomShift):
        refuse_large_shift(stage.pad, obs_shape, "model.augmentations: RandomShift.pad")
    if obs_shape[0] % 3 and not isinstance(stage, Augmentation):
        raise UserError(
            f"model.augmentations: {type(stage).__name__} needs RGB frames, but observations are {obs_shape}"
        )


def as_text(stage: nn.Module) -> str:
    """Return class and settings of an augmentation: equal for equal ones, in any process."""
    plain = {k: v for k, v in vars(stage).items() if not k.startswith("_") and isinstance(v, bool | int | float | str)}
    settings = {name: value for name, value in plain.items() if name != "training"}
    shown = re.sub(r" at 0x[0-9a-f]+", "", repr(stage))
    return f"{type(stage).__module__}.{shown} {settings}"


def is_kornia(stage: nn.Module) -> bool:
    """Return whether ``stage`` is one of kornia's transforms or a subclass, without importing kornia."""
    return any(cls.__module__.startswith("kornia.") for cls in type(stage).__mro__)


def as_video_transform(stage: nn.Module) -> nn.Module:
    """Return kornia's transform ``stage`` for ``(batch, stack, 3, height, width)``, equal on all frames of a stack."""
    kornia = importlib.import_module("kornia.augmentation")
    return kornia.VideoSequential(stage, data_format="BTCHW", same_on_frame=True)


@contextlib.contextmanager
def seeded_globally(generator: torch.Generator, device: torch.device) -> Iterator[None]:
    """Let torch's default generators (CPU and ``device``) start from a number of ``generator``, then set them back.

    Args:
        generator: CPU generator that the seed is drawn from.
        device: Device that the code inside works on.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for one in devices:
            with torch.cuda.device(one):
                torch.cuda.manual_seed(seed)
        yield
