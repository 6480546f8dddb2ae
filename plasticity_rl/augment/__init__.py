"""Augmentations of images, and the chain in which an agent runs them.

May import what is in no package; nothing of nn and optim.
Start at ``transforms.py``.
"""

from plasticity_rl.augment.transforms import (
    Augmentation,
    ColorJitter,
    CutMix,
    Cutout,
    IntensityJitter,
    KorniaAugmentation,
    MixUp,
    RandomConv,
    RandomCropResize,
    RandomShift,
)

__all__ = [
    "Augmentation",
    "ColorJitter",
    "CutMix",
    "Cutout",
    "IntensityJitter",
    "KorniaAugmentation",
    "MixUp",
    "RandomConv",
    "RandomCropResize",
    "RandomShift",
]
