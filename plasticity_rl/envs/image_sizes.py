"""The option ``image_size``: one number for square images, or height and width. Light."""

from __future__ import annotations

from collections.abc import Sequence

from plasticity_rl.errors import UserError, at_least

ImageSize = int | tuple[int, int]
"""Pixels: both sides, or height and width."""


def refuse_image_size(size: int | Sequence[int]) -> ImageSize:
    """Return the size, two equal numbers as one: the same images are the same option to a run that goes on.

    Raises:
        UserError: When it is neither a number nor two, or one is below 1.
    """
    if not isinstance(size, Sequence):
        at_least("image_size", size, 1)
        return size
    if len(size) != 2:
        raise UserError(f"image_size={list(size)} must be a whole number, or two: [height, width]")
    for side in size:
        at_least("image_size", side, 1, f" in each of {list(size)}, [height, width]")
    return size[0] if size[0] == size[1] else (size[0], size[1])


def as_height_and_width(size: ImageSize) -> tuple[int, int]:
    """Return height and width in pixels."""
    return (size, size) if isinstance(size, int) else size
