from __future__ import annotations

import importlib
from urllib.error import URLError

import pytest
import torch
from torch import nn
from torchvision_import import torchvision_transforms

from plasticity_rl import UserError
from plasticity_rl.nn.resnet import (
    ARCHITECTURES,
    LAYERS,
    WEIGHT_FILES,
    WEIGHT_SERVER,
    BasicBlock,
    imagenet_weights,
    resnet,
)
from plasticity_rl.nn.weight_files import load_weights, read_weights


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def torchvision():
    """The reference, where it is installed."""
    torchvision_transforms()
    return importlib.import_module("torchvision")


def with_statistics(network: nn.Module) -> nn.Module:
    """Give every batch norm statistics, gains and biases of its own: those of a fresh network hide their mix-up."""
    draw = generator(7)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                for value in (layer.running_mean, layer.bias):
                    value.normal_(generator=draw)
                for value in (layer.running_var, layer.weight):
                    value.uniform_(0.5, 2.0, generator=draw)
    return network


# ---- the same network as torchvision's -------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS[:2])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("training", [False, True])
def test_maps_equal_torchvision_s_bit_by_bit(architecture, layer, training, torchvision):
    theirs = with_statistics(getattr(torchvision.models, architecture)()).train(training)
    ours = resnet(architecture, layer)
    load_weights(ours, theirs.state_dict(), "it")
    ours.train(training)
    images = torch.randn(3, 3, 36, 40, generator=generator())
    expected = images
    for name, part in theirs.named_children():
        expected = part(expected)
        if name == layer:
            break
    assert torch.equal(ours(images), expected)
    state = ours.state_dict()
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in state.items())  # moved alike, too
    assert len(state) == sum(name.split(".")[0] in dict(ours.named_children()) for name in theirs.state_dict())


def test_weight_files_are_torchvision_s(torchvision):
    for architecture, name in WEIGHT_FILES.items():
        weights = torchvision.models.get_model_weights(architecture)
        assert weights.IMAGENET1K_V1.url == f"{WEIGHT_SERVER}/{name}"


def test_all_files_of_a_real_state_dict_are_found(torchvision, tmp_path):
    theirs = with_statistics(torchvision.models.resnet18())
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    ours = resnet("resnet18", "layer4")
    load_weights(ours, read_weights(tmp_path / "resnet18.pth"), "it")
    left = {"fc.weight", "fc.bias"}
    assert theirs.state_dict().keys() - ours.state_dict().keys() == left
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


# ---- by hand ---------------------------------------------------------------------------------------------------------


def test_a_block_by_hand():
    """Both kernels the identity, fresh batch norms in evaluation mode: relu(relu(x) + x)."""
    block = BasicBlock(1, 1, 1).eval()
    for layer in (block.conv1, block.conv2):
        nn.init.dirac_(layer.weight)
    x = torch.tensor([[[[1.0, -2.0], [0.5, 3.0]]]])
    # relu(1 + 1) = 2, relu(0 - 2) = 0, relu(0.5 + 0.5) = 1, relu(3 + 3) = 6; batch norm divides by sqrt(1 + 1e-5) twice
    expected = torch.tensor([[[[2.0, 0.0], [1.0, 6.0]]]])
    torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("architecture", "layer", "channels", "side"),
    [("resnet18", "layer1", 64, 21), ("resnet18", "layer2", 128, 11), ("resnet50", "layer2", 512, 11)],
)
def test_sizes_of_the_maps(architecture, layer, channels, side):
    """84 pixels: 42 after conv1, 21 after the pooling and layer1, 11 after layer2."""
    maps = resnet(architecture, layer).eval()(torch.zeros(1, 3, 84, 84))
    assert maps.shape == (1, channels, side, side)


def test_random_weights_come_from_the_generator_alone():
    before = torch.get_rng_state()
    one, same, other = (resnet("resnet18", "layer2", generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), same.state_dict().values(), strict=True))
    weight = one.get_parameter("layer2.1.conv2.weight")
    assert not torch.equal(weight, other.get_parameter("layer2.1.conv2.weight"))
    # variance 2 / fan_out = 2 / (128 * 9); 147456 draws, so the sample deviation is good to about 0.2 %
    assert float(weight.detach().std()) == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
    assert torch.equal(one.get_buffer("bn1.running_var"), torch.ones(64))
    assert float(one.get_buffer("bn1.num_batches_tracked")) == 0


# ---- files -----------------------------------------------------------------------------------------------------------


def test_weights_in_the_cache_are_taken_without_network(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    state = with_statistics(resnet("resnet34", "layer1")).state_dict()
    torch.save(state, folder / "resnet34-b627a593.pth")
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", None)
    assert imagenet_weights("resnet34").keys() == state.keys()


@pytest.mark.parametrize(
    "error", [URLError("no route to host\nsecond line"), RuntimeError("invalid hash value"), TimeoutError()]
)
def test_without_network_the_error_says_which_file_to_place_where(error, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    asked = []

    def fail(url, **options):
        asked.append((url, options["check_hash"], options["weights_only"]))
        raise error

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", fail)
    with pytest.raises(UserError) as caught:
        imagenet_weights("resnet18")
    message = str(caught.value)
    assert asked == [("https://download.pytorch.org/models/resnet18-f37072fd.pth", True, True)]
    assert f"place resnet18-f37072fd.pth into {tmp_path / 'hub' / 'checkpoints'}" in message
    assert "or give its path as weights_path" in message
    assert asked[0][0] in message
    assert "\n" not in message


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"^weights_path='.*absent.pth' is no file"):
        read_weights(tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("<html>not found</html>")
    with pytest.raises(UserError, match=r"^cannot read the weights in .*text.pth") as caught:
        read_weights(tmp_path / "text.pth")
    assert "\n" not in str(caught.value)
    torch.save({"state_dict": {}, "epoch": 3}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="holds no state dict of tensors"):
        read_weights(tmp_path / "other.pth")


def test_weights_of_another_network_are_refused():
    network = resnet("resnet18", "layer2")
    short = resnet("resnet18", "layer1").state_dict()
    with pytest.raises(UserError, match=r"^the file has no entry 'layer2.0.conv1.weight'; it must be"):
        load_weights(network, short, "the file")
    other = resnet("resnet50", "layer2").state_dict()
    with pytest.raises(UserError, match=r"holds 'layer1.0.conv1.weight' of shape \(64, 64, 1, 1\) where .*\(64, 64, 3"):
        load_weights(network, other, "the file")
