"""Digits follow the size of what is compared, so a return between 0 and 1 is not rounded away."""

from __future__ import annotations

import math

import pytest

from plasticity_rl.results.digits import digits_of


@pytest.mark.parametrize(
    ("values", "digits"),
    [
        ([192.1, 0.3], 1),
        ([-1000.0], 1),
        ([40.0, 12.0], 1),
        ([4.0], 2),
        ([0.56, -0.48], 3),
        ([1.0, 0.5], 2),
        ([0.02], 4),
        ([1e-5], 7),
        ([1.2e-8, 1e-9], 10),
        ([1e-30], 15),
        ([0.0], 3),
        ([], 3),
        ([math.nan, math.inf, 5.0], 2),
    ],
)
def test_three_digits_of_the_largest_number_and_one_behind_the_point(values, digits):
    assert digits_of(values) == digits
