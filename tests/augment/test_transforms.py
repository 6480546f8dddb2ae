from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from plasticity_rl import UserError
from plasticity_rl.augment import RandomConv, RandomShift
from plasticity_rl.augment.transforms import convolve, random_shift, shift

GENERATOR = torch.Generator().manual_seed(0)

GRID = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]], dtype=torch.uint8).view(1, 1, 3, 3)


@pytest.mark.parametrize(
    ("down", "right", "expected"),
    [
        (0, 0, [[1, 2, 3], [4, 5, 6], [7, 8, 9]]),
        (1, 0, [[4, 5, 6], [7, 8, 9], [7, 8, 9]]),
        (0, 1, [[2, 3, 3], [5, 6, 6], [8, 9, 9]]),
        (-1, 0, [[1, 2, 3], [1, 2, 3], [4, 5, 6]]),
        (1, -1, [[4, 4, 5], [7, 7, 8], [7, 7, 8]]),
        (5, 5, [[9, 9, 9]] * 3),
    ],
)
def test_shift_repeats_the_border(down: int, right: int, expected: list[list[int]]):
    assert shift(GRID, torch.tensor([[down]]), torch.tensor([[right]]))[0, 0].tolist() == expected


def test_shift_moves_each_image_by_its_own_offsets_and_all_channels_together():
    images = torch.stack([torch.cat([GRID[0], GRID[0] + 10]), torch.cat([GRID[0] + 20, GRID[0] + 30])])
    out = shift(images, torch.tensor([[1], [0]]), torch.tensor([[0], [-1]]))
    assert out[0, 0].tolist() == [[4, 5, 6], [7, 8, 9], [7, 8, 9]]
    assert out[0, 1].tolist() == [[14, 15, 16], [17, 18, 19], [17, 18, 19]]
    assert out[1, 0].tolist() == [[21, 21, 22], [24, 24, 25], [27, 27, 28]]
    assert out[1, 1].tolist() == [[31, 31, 32], [34, 34, 35], [37, 37, 38]]


def test_shift_of_images_that_are_not_square():
    image = torch.tensor([[[[1, 2, 3, 4], [5, 6, 7, 8]]]], dtype=torch.uint8)
    assert shift(image, torch.tensor([[1]]), torch.tensor([[2]]))[0, 0].tolist() == [[7, 8, 8, 8], [7, 8, 8, 8]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_random_shift_keeps_shape_and_dtype_and_leaves_its_input(dtype: torch.dtype):
    images = torch.randint(0, 256, (5, 9, 7, 7)).to(dtype)
    before = images.clone()
    out = random_shift(images, 2, torch.Generator().manual_seed(0))
    assert (out.shape, out.dtype) == (images.shape, dtype)
    assert torch.equal(images, before)
    assert not torch.equal(out, before)


def test_pad_zero_returns_the_images_and_draws_nothing():
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    assert random_shift(GRID, 0, generator) is GRID
    assert torch.equal(generator.get_state(), state)


def test_offsets_stay_within_pad_and_reach_it():
    side = 9
    rows = torch.arange(side, dtype=torch.uint8)[:, None].expand(side, side)
    images = torch.stack([rows, rows.T]).expand(400, -1, -1, -1)
    out = random_shift(images, 3, torch.Generator().manual_seed(0))
    for channel in (0, 1):  # where the middle pixel came from, relative to the middle
        assert sorted(set((out[:, channel, 4, 4].int() - 4).tolist())) == [-3, -2, -1, 0, 1, 2, 3]


def test_random_shift_draws_from_the_given_generator_only():
    images = torch.randint(0, 256, (8, 3, 9, 9), dtype=torch.uint8)
    state = torch.get_rng_state()
    first = random_shift(images, 4, torch.Generator().manual_seed(1))
    again = random_shift(images, 4, torch.Generator().manual_seed(1))
    other = random_shift(images, 4, torch.Generator().manual_seed(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_all_81_published_shifts_are_the_reference_definition():
    """Replicate-pad by 4, then cut the image out at each of 9 x 9 whole offsets: exact on integers."""
    pad, height, width = 4, 10, 12
    images = torch.randint(0, 256, (81, 9, height, width), generator=torch.Generator().manual_seed(0))
    offsets = list(itertools.product(range(2 * pad + 1), repeat=2))
    padded = F.pad(images.double(), [pad] * 4, mode="replicate")
    expected = [padded[i, :, y : y + height, x : x + width] for i, (y, x) in enumerate(offsets)]
    down, right = torch.tensor(offsets).T[:, :, None] - pad
    assert torch.equal(shift(images.to(torch.uint8), down, right), torch.stack(expected).to(torch.uint8))
    assert torch.equal(shift(images, down, right), torch.stack(expected).long())
    drawn = {tuple((torch.randint(0, 2 * pad + 1, (2,), generator=GENERATOR)).tolist()) for _ in range(2000)}
    assert drawn == set(offsets), "random_shift draws from these 81 and no others"


# ---- random convolution ----------------------------------------------------------------------------------------------


def test_convolve_by_hand():
    # The kernel copies the pixel to the left from red into green and doubles it; nothing enters red and blue.
    kernels = torch.zeros(1, 3, 3, 3, 3)
    kernels[0, 1, 0, 1, 0] = 2.0
    image = torch.zeros(1, 3, 1, 3, dtype=torch.uint8)
    image[0, 0, 0] = torch.tensor([51, 102, 255])
    out = convolve(image, kernels)
    # Border repeated: left of the first pixel is itself. 2 * 51/255 = 0.4, 0.4, 2 * 102/255 = 0.8.
    green = [255 / (1 + math.exp(-x)) for x in (0.4, 0.4, 0.8)]
    assert out[0, 1, 0].tolist() == pytest.approx(green)
    assert out[0, [0, 2]].tolist() == [[[127.5] * 3]] * 2  # sigmoid(0) = 0.5


def test_convolve_gives_each_image_its_kernel_and_each_frame_of_it_the_same():
    images = torch.randint(0, 256, (4, 9, 7, 6), dtype=torch.uint8)
    kernels = torch.randn(4, 3, 3, 3, 3)
    out = convolve(images, kernels)
    for image, kernel, got in zip(images, kernels, out, strict=True):
        for frame in range(3):
            channels = slice(3 * frame, 3 * frame + 3)
            padded = F.pad(image[None, channels].float() / 255, [1] * 4, mode="replicate")
            expected = 255 * torch.sigmoid(F.conv2d(padded, kernel))[0]
            assert torch.allclose(got[channels], expected, atol=1e-4)


def test_random_conv_filters_a_share_p_of_the_images():
    images = torch.randint(0, 256, (1000, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    out = RandomConv(p=0.9)(images, torch.Generator().manual_seed(1))
    clean = (out == images).flatten(1).all(1)
    assert 60 <= clean.sum() <= 140  # binomial(1000, 0.1): mean 100, standard deviation 9.5
    assert torch.equal(RandomConv(p=0.0)(images, GENERATOR), images.float())
    assert (out.min() >= 0, out.max() <= 255) == (True, True)


def test_kernels_are_xaviers():
    """A lone bright pixel shows the kernel: the logit of its neighbourhood has variance 2 / 54."""
    image = torch.zeros(1, 3, 3, 3, dtype=torch.uint8)
    image[0, 0, 1, 1] = 255
    out = RandomConv(p=1.0)(image.expand(3000, -1, -1, -1), torch.Generator().manual_seed(0)) / 255
    assert torch.logit(out).var().item() == pytest.approx(2 / 54, rel=0.05)


@pytest.mark.parametrize(("kind", "argument"), [(RandomShift, {"pad": -1}), (RandomConv, {"p": 1.5})])
def test_impossible_arguments_are_refused(kind: type, argument: dict):
    with pytest.raises(UserError, match=next(iter(argument))):
        kind(**argument)
