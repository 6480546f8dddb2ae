"""Networks trained on ImageNet by name: which there are, how each is built, where its weights are from."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from plasticity_rl.nn import efficientnet, resnet

PretrainedName = Literal["resnet18", "resnet34", "resnet50", "efficientnet_lite0"]
Layer = Literal["layer1", "layer2", "layer3", "layer4"]
"""Where a network is cut: after its last map of a 4th, 8th, 16th or 32nd of the image's side."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's red, green and blue, of pixel values in [0, 1]."""


def random_network(
    architecture: PretrainedName, layer: Layer, generator: torch.Generator | None = None
) -> nn.Sequential:
    """Return a network up to and including the stage called ``layer``, with weights drawn from a CPU generator."""
    if architecture == "efficientnet_lite0":
        return efficientnet.efficientnet_lite0(layer, generator)
    return resnet.resnet(architecture, layer, generator)


def imagenet_weights(architecture: PretrainedName) -> tuple[dict[str, Tensor], str]:
    """Return ImageNet-1k weights of a whole network, and what a message may call them.

    A ResNet's are downloaded once into torch's cache; those of EfficientNet-Lite0 are in the extra ``pretrained``.

    Raises:
        UserError: When they are not to be had; it says what to do.
    """
    if architecture == "efficientnet_lite0":
        return efficientnet.imagenet_weights(), f"the file of {efficientnet.PACKAGE}"
    return resnet.imagenet_weights(architecture), f"torchvision's file of {architecture}"


def normalization(architecture: PretrainedName) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of the colours, pixels in [0, 1], that the weights were trained with."""
    if architecture == "efficientnet_lite0":
        return efficientnet.MEAN, efficientnet.STD
    return IMAGENET_MEAN, IMAGENET_STD
