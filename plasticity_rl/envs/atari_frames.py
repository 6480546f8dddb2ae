"""From two screens of a game to one small picture: the maximum of both, then the mean over areas."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def area_weights(source: int, target: int) -> np.ndarray:
    """Return how much of each source pixel lies in each target pixel when a line of pixels shrinks.

    Args:
        source: Pixels of the line.
        target: Pixels that it shall have, at most ``source``.

    Returns:
        Whole numbers as float32, shape (target, source): overlaps in units in which a target pixel is
        ``source / gcd(source, target)`` long. Every row has that sum.
    """
    divisor = math.gcd(source, target)
    target_length, source_length = source // divisor, target // divisor
    starts = np.arange(target)[:, None] * target_length
    begins = np.arange(source)[None] * source_length
    overlap = np.minimum(starts + target_length, begins + source_length) - np.maximum(starts, begins)
    return np.maximum(overlap, 0).astype(np.float32)


class AreaResize:
    """Shrinks pictures to a square: each pixel becomes the mean of the area that it covers (OpenCV's ``INTER_AREA``).

    The sums are whole numbers below 2**24, which float32 holds exactly, so that no machine and no library of linear
    algebra comes to another result; only the last division rounds, a half to the even number.

    Args:
        height: Of the pictures, pixels.
        width: Of the pictures, pixels.
        size: Height and width of the result, at most ``height`` and ``width``.
    """

    def __init__(self, height: int, width: int, size: int) -> None:
        self._rows, self._columns = area_weights(height, size), area_weights(width, size).T.copy()
        self._area = self._rows[0].sum() * self._columns[:, 0].sum()
        assert 255 * self._area < 2**24, "a picture this large is no longer summed exactly"

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """Return the picture, uint8 (height, width), as uint8 (size, size)."""
        return np.rint(self._rows @ picture.astype(np.float32) @ self._columns / self._area).astype(np.uint8)


def brightest(screens: Sequence[np.ndarray]) -> np.ndarray:
    """Return the maximum of screens, pixel by pixel: many games draw some of their figures in every other frame only.

    Args:
        screens: One or more, uint8 of one shape.
    """
    picture = screens[0]
    for screen in screens[1:]:
        picture = np.maximum(picture, screen)
    return picture


def scaled(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a picture, uint8 (h, w, 3), at another size, uint8 (height, width, 3): the nearest pixel, no mixing."""
    rows = np.arange(height) * picture.shape[0] // height
    columns = np.arange(width) * picture.shape[1] // width
    return picture[rows[:, None], columns]
