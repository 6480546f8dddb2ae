"""How many digits behind the point numbers of one kind are written with: as many as their size asks for.

A return may go to 1000, or to 1 in an environment of one's own; a share has 1 at most, a norm or a rank any size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

SIGNIFICANT = 3
"""Of the largest number."""
MOST = 15
"""What is smaller yet is rounding of what is of size 1."""


def digits_of(values: Iterable[float]) -> int:
    """Return the digits behind the point for numbers that are compared with each other.

    At least one, so that a difference of large numbers has one too; three where there is nothing but zeros.

    Args:
        values: Any number of them; those that are not finite do not count.
    """
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    whole = math.floor(math.log10(largest)) + 1 if largest > 0 else 0
    return min(max(SIGNIFICANT - whole, 1), MOST)
