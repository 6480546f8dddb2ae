"""Interquartile mean and bootstrap band, against numbers worked out by hand and a slow second way."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from plasticity_rl.statistics import bootstrap_band, iqm


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7.0], 7.0),
        ([1.0, 3.0], 2.0),
        # Masses of thirds: of the first 1/3 - 1/4 = 1/12 lies inside, of the second all of 1/3, of the third 1/12;
        # divided by the half: 1/6, 2/3, 1/6. 0 / 6 + 3 * 2 / 3 + 12 / 6 = 4.
        ([0.0, 3.0, 12.0], 4.0),
        ([100.0, 1.0, 3.0, -50.0], 2.0),  # the middle two
        # Fifths: 0.2 | 0.2..0.4 has 0.15 inside | all of 0.4..0.6 | 0.15 | 0. (0.15 * 2 + 0.2 * 4 + 0.15 * 12) / 0.5
        ([0.0, 2.0, 4.0, 12.0, 1000.0], 5.8),
        ([8.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 4.5),
    ],
)
def test_iqm_by_hand(values, expected):
    assert float(iqm(values)) == pytest.approx(expected)


@pytest.mark.parametrize("count", [4, 8, 12, 20])
def test_iqm_is_the_trimmed_mean_of_a_multiple_of_four(count):
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(count).normal(size=(count, 3))
    assert iqm(values) == pytest.approx(stats.trim_mean(values, 0.25, axis=0))


def test_iqm_of_columns_and_rows():
    values = np.array([[0.0, 10.0], [2.0, 30.0]])
    assert iqm(values).tolist() == [1.0, 20.0]
    assert iqm(values, axis=1).tolist() == [5.0, 16.0]


def test_iqm_shows_a_run_that_diverged():
    """NaN sorts to the end and would be cut off as an outlier."""
    values = np.array([[1.0, 1.0], [2.0, np.nan], [3.0, 3.0], [4.0, 4.0]])
    assert iqm(values)[0] == 2.5
    assert np.isnan(iqm(values)[1])


def test_iqm_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no values"):
        iqm([])


def test_the_band_equals_the_distribution_of_all_resamples():
    """Three runs have 27 equally likely resamples, with the IQM 0 once, 0.5, 2 and 2.5 three times each, ..."""
    runs = np.array([[0.0], [3.0], [12.0]])
    every = sorted(float(iqm([runs[i, 0] for i in draw])) for draw in itertools.product(range(3), repeat=3))
    # 30 % and 70 % of 27 are 8.1 and 18.9: well inside the steps 8 to 10 and 18 to 20 of the list.
    assert every[7:10] == pytest.approx([2.5] * 3)  # 0, 3, 3
    assert every[17:20] == pytest.approx([4.5] * 3)  # 3, 3, 12
    low, high = bootstrap_band(runs, confidence=0.4, num_resamples=20_000)
    assert (low[0], high[0]) == (pytest.approx(2.5), pytest.approx(4.5))


def test_a_run_keeps_its_curve():
    """Two mirrored runs: drawn as a whole, their IQMs at the two points always add up to the same."""
    low, high = bootstrap_band([[0.0, 1.0], [1.0, 0.0]], confidence=0.9)
    assert low.tolist() == [0.0, 0.0]
    assert high.tolist() == [1.0, 1.0]
    together, _ = bootstrap_band([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]], confidence=0.9)
    assert together[2] == 1.0


def test_the_band_of_one_run_has_no_width_and_that_of_equal_runs_neither():
    for runs in ([[1.0, 2.0]], [[1.0, 2.0]] * 5):
        low, high = bootstrap_band(runs)
        assert low.tolist() == high.tolist() == [1.0, 2.0]


def test_the_band_narrows_with_more_runs():
    """By the square root: 16 times the runs of the same spread, a quarter of the width."""
    values = np.random.default_rng(0).normal(size=(8, 1))
    (few_low, few_high), (low, high) = bootstrap_band(values), bootstrap_band(np.tile(values, (16, 1)))
    assert high - low < (few_high - few_low) / 2


def test_the_same_seed_gives_the_same_band_whatever_the_global_generator():
    values = np.random.default_rng(0).normal(size=(6, 4))
    np.random.seed(1)
    one = bootstrap_band(values, num_resamples=500)
    np.random.seed(2)
    two = bootstrap_band(values, num_resamples=500)
    other = bootstrap_band(values, num_resamples=500, seed=1)
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="runs, points"):
        bootstrap_band([1.0, 2.0])
    with pytest.raises(ValueError, match="at least one run"):
        bootstrap_band(np.zeros((0, 3)))
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_band([[1.0]], confidence=1.0)
