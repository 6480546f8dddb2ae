from __future__ import annotations

import pytest
import torch

from plasticity_rl.augment import random_shift, shift

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
