"""The convolutional part of torchvision's ImageNet ResNets, with torchvision's parameter names and weights.

Rebuilt here because torchvision's binary must match the installed torch build, else ``import torchvision`` fails, and
with it ``import lightning``. Nothing of it is needed but these few layers; weights come from the same place by the same
loader (:func:`torch.hub.load_state_dict_from_url`) into the same cache.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from plasticity_rl.errors import UserError
from plasticity_rl.nn.weight_files import one_line, read_weights

WEIGHT_FILES = {
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
}
"""Files of the ImageNet-1k weights (torchvision's ``IMAGENET1K_V1``), by name of the network."""
WEIGHT_SERVER = "https://download.pytorch.org/models"
LAYERS = ("layer1", "layer2", "layer3", "layer4")
"""Stages after which the network may be cut; each but the first halves height and width, which conv1 and the maximum
pooling before them divide by 4."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a skip connection (He et al. 2016, arXiv 1512.03385, Fig. 2)."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu1 = _conv(in_channels, channels, 3, stride), nn.BatchNorm2d(channels), nn.ReLU()
        self.conv2, self.bn2, self.relu2 = _conv(channels, channels, 3), nn.BatchNorm2d(channels), nn.ReLU()
        self.downsample = _shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, in_channels, h, w)`` to ``(batch, channels, h / stride, w / stride)``."""
        out = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(out)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a skip connection; the stride is on the 3x3 one, as in torchvision."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1, self.bn1, self.relu1 = _conv(in_channels, channels, 1), nn.BatchNorm2d(channels), nn.ReLU()
        self.conv2, self.bn2, self.relu2 = _conv(channels, channels, 3, stride), nn.BatchNorm2d(channels), nn.ReLU()
        self.conv3, self.bn3, self.relu3 = _conv(channels, out_channels, 1), nn.BatchNorm2d(out_channels), nn.ReLU()
        self.downsample = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, in_channels, h, w)`` to ``(batch, 4 * channels, h / stride, w / stride)``."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        return self.relu3(self.bn3(self.conv3(out)) + self.downsample(x))


ARCHITECTURES: Mapping[str, tuple[type[BasicBlock | Bottleneck], tuple[int, ...]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}
"""Block and number of blocks in each of the four stages, by name of the network."""


def _conv(in_channels: int, out_channels: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=False)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(_conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))


def resnet(architecture: str, layer: str, generator: torch.Generator | None = None) -> nn.Sequential:
    """Return a ResNet up to and including the stage called ``layer``, with random weights.

    Args:
        architecture: ``resnet18``, ``resnet34`` or ``resnet50``.
        layer: ``layer1`` to ``layer4``.
        generator: CPU generator of the weights: normal with variance ``2 / fan_out`` for convolutions, as in
            torchvision; ones and zeros for batch norms. Torch's default generator is left alone.

    Returns:
        Maps images ``(batch, 3, h, w)`` to ``(batch, channels, h', w')``; its state dict is a part of torchvision's.
    """
    block, depths = ARCHITECTURES[architecture]
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    with torch.device("meta"):  # the layers' own initialisation would draw from the default generator
        layers["conv1"] = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        layers["bn1"], layers["relu"], layers["maxpool"] = nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)
        in_channels = 64
        for index in range(LAYERS.index(layer) + 1):
            channels = 64 * 2**index
            blocks: list[nn.Module] = []
            for position in range(depths[index]):
                blocks.append(block(in_channels, channels, 2 if index > 0 and position == 0 else 1))
                in_channels = channels * block.expansion
            layers[LAYERS[index]] = nn.Sequential(*blocks)
        network = nn.Sequential(layers)
    network.to_empty(device="cpu")
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return network


def imagenet_weights(architecture: str) -> dict[str, Tensor]:
    """Return torchvision's ImageNet-1k weights, downloaded once into torch's cache.

    Raises:
        UserError: When they are not in the cache and cannot be downloaded; it says which file to place where.
    """
    name, folder = WEIGHT_FILES[architecture], Path(torch.hub.get_dir()) / "checkpoints"
    url = f"{WEIGHT_SERVER}/{name}"
    if (folder / name).exists():
        return read_weights(folder / name)
    try:
        return torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong hash is a RuntimeError
        raise UserError(
            f"cannot download the ImageNet weights of {architecture} ({one_line(error)}); get {url} by other means "
            f"and place {name} into {folder}, or give its path as weights_path"
        ) from error
