from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from plasticity_rl import UserError
from plasticity_rl.nn.frozen_network import FrozenNetwork
from plasticity_rl.nn.pretrained import IMAGENET_MEAN, IMAGENET_STD, normalization
from plasticity_rl.nn.resnet import resnet


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator(seed))


def small(**options) -> FrozenNetwork:
    return FrozenNetwork(resnet("resnet18", "layer1", generator()), (9, 20, 20), 12, **options)


def test_frames_and_differences_by_hand():
    """The network is the identity: the maps are the frames themselves. 51 / 255 - 0.5 = -0.3, 102: -0.1, 255: 0.5."""
    encoder = FrozenNetwork(nn.Identity(), (9, 1, 1), 4)
    pixels = torch.tensor([51] * 3 + [102] * 3 + [255] * 3, dtype=torch.uint8).view(1, 9, 1, 1)
    # frames 2 and 3, then their differences from the frame before: -0.1 + 0.3 = 0.2 and 0.5 + 0.1 = 0.6
    expected = torch.tensor([-0.1] * 3 + [0.5] * 3 + [0.2] * 3 + [0.6] * 3).view(1, 12, 1, 1)
    torch.testing.assert_close(encoder.maps(pixels), expected)


def test_one_frame_stands_for_itself():
    encoder = FrozenNetwork(nn.Identity(), (3, 2, 2), 4)
    pixels = images(5, 3, 2, 2)
    torch.testing.assert_close(encoder.maps(pixels), pixels / 255 - 0.5)


@pytest.mark.parametrize("normalize", ["published", "imagenet"])
def test_features_equal_a_slow_version(normalize):
    encoder = small(normalize=normalize)
    with torch.no_grad():
        encoder.projection[1].weight.uniform_(0.5, 2.0, generator=generator(1))
    pixels = images(4, 9, 20, 20)
    rows = []
    for observation in pixels:
        maps = []
        for start in (0, 3, 6):
            frame = observation[start : start + 3].float() / 255
            for channel in range(3):
                if normalize == "imagenet":
                    frame[channel] = (frame[channel] - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
                else:
                    frame[channel] = frame[channel] - 0.5
            maps.append(encoder.network(frame[None])[0])
        parts = [maps[1], maps[2], maps[1] - maps[0], maps[2] - maps[1]]
        vector = encoder.projection[0](torch.cat([part.flatten() for part in parts]))
        centred = vector - vector.mean()
        norm = encoder.projection[1]
        rows.append(centred / (centred.square().mean() + norm.eps).sqrt() * norm.weight + norm.bias)
    torch.testing.assert_close(encoder(pixels), torch.stack(rows), rtol=1e-4, atol=1e-5)
    assert encoder(pixels).shape == (4, encoder.repr_dim)


@pytest.mark.parametrize("normalize", ["published", "imagenet"])
def test_pixels_of_an_agent_that_centres_them_itself_give_the_same(normalize):
    """Augmentation may have made floats of the others: the same values give the same features, whatever their type."""
    encoder, pixels = small(normalize=normalize), images(2, 9, 20, 20)
    assert torch.equal(encoder(pixels.float()), encoder(pixels))
    centred = small(normalize=normalize, centred=True)
    centred.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(centred(pixels / 255 - 0.5), encoder(pixels))


def test_nothing_frozen_moves_and_the_projection_learns():
    encoder = small()
    before = copy.deepcopy(encoder.state_dict())
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-2, weight_decay=0.1)
    encoder.train()
    for step in range(3):
        optimizer.zero_grad()
        encoder(images(4, 9, 20, 20, seed=step)).square().sum(1).sub(1).square().sum().backward()
        optimizer.step()
    after = encoder.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.startswith("projection")}
    assert len(moved) == 4
    assert not any(p.requires_grad for p in encoder.network.parameters())
    assert all(p.requires_grad for p in encoder.projection.parameters())


def test_the_frozen_network_stays_in_evaluation_mode():
    encoder, pixels = small(), images(4, 9, 20, 20)
    acting = encoder.eval()(pixels)
    assert torch.equal(encoder.train()(pixels), acting)
    assert encoder.projection.training
    assert not any(module.training for module in encoder.network.modules())
    agent = nn.Sequential(encoder)
    agent.train()
    assert not encoder.network.training


def test_batch_statistics_are_used_and_move_only_while_they_are_on():
    encoder, pixels = small(), images(4, 9, 20, 20)
    encoder.train()
    with_running = encoder(pixels)
    encoder.batch_statistics(True)
    mean = encoder.network.get_buffer("bn1.running_mean").clone()
    weights = copy.deepcopy(dict(encoder.network.named_parameters()))
    with_batch = encoder(pixels)
    assert not torch.allclose(with_batch, with_running, atol=1e-3)
    assert not torch.equal(encoder.network.get_buffer("bn1.running_mean"), mean)
    assert all(torch.equal(p, weights[name]) for name, p in encoder.network.named_parameters())
    encoder.eval()
    assert not encoder.network.training
    encoder.train()
    assert encoder.network.training
    encoder.batch_statistics(False)
    mean = encoder.network.get_buffer("bn1.running_mean").clone()
    encoder.train()(pixels)
    assert torch.equal(encoder.network.get_buffer("bn1.running_mean"), mean)


def test_constants_are_no_part_of_the_state():
    assert not {"mean", "std"} & small().state_dict().keys()


def test_pixels_as_the_weights_of_efficientnet_lite0_know_them():
    """(pixels - 127) / 128: 127 gives 0, 255 gives 1."""
    mean, std = normalization("efficientnet_lite0")
    encoder = FrozenNetwork(nn.Identity(), (3, 1, 2), 4, "imagenet", mean=mean, std=std)
    pixels = torch.tensor([127, 255], dtype=torch.uint8).expand(1, 3, 1, 2)
    torch.testing.assert_close(encoder.maps(pixels), torch.tensor([0.0, 1.0]).expand(1, 3, 1, 2), rtol=0, atol=1e-6)


def test_frames_that_are_not_rgb_are_refused():
    with pytest.raises(UserError, match="needs RGB frames, but 4 channels are no multiple of 3"):
        FrozenNetwork(nn.Identity(), (4, 8, 8), 4)
