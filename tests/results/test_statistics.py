"""Interquartile mean and intervals, against numbers worked out by hand and a slow second way."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from plasticity_rl.results.statistics import interval, iqm, iqm_of, mean_of


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


def test_iqm_with_weights_by_hand():
    """Masses 1/4, 1/2, 1/4: the middle half is the second value alone. Only ratios count, and order does not."""
    assert iqm([0.0, 3.0, 12.0], weights=[1, 2, 1]) == 3.0
    assert iqm([12.0, 0.0, 3.0], weights=[1, 1, 2]) == 3.0
    # Sixths: 0 has 3, 6 has 2, 9 has 1. Between 1.5 and 4.5 of them lie 1.5 of 0 and 1.5 of 6.
    assert iqm([0.0, 6.0, 9.0], weights=[3, 2, 1]) == pytest.approx(3.0)
    values = np.random.default_rng(0).normal(size=7)
    assert iqm(values, weights=np.full(7, 0.3)) == pytest.approx(iqm(values))


def test_every_task_has_the_same_mass_in_the_iqm():
    """One run at 0 and four at 8: of five runs the middle would be 8; of two tasks it is half and half."""
    assert iqm_of([np.array([0.0]), np.full(4, 8.0)]) == pytest.approx(4.0)
    assert mean_of([np.array([0.0]), np.full(4, 8.0)]) == 4.0
    both = [np.array([0.0, 2.0]), np.array([4.0, 10.0])]
    assert iqm_of(both) == iqm(np.concatenate(both)), "equal numbers of seeds: the usual IQM"


# ---- intervals -------------------------------------------------------------------------------------------------------


def test_the_interval_of_a_mean_is_students():
    values = np.random.default_rng(1).normal(size=5)
    theirs = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert interval(mean_of, [values], confidence=0.9) == pytest.approx((theirs.low, theirs.high))


def test_the_interval_over_tasks_is_welchs():
    """The mean of two tasks is half of the sum; Welch's difference has the same error and degrees of freedom."""
    one, two = np.random.default_rng(1).normal(size=4), np.random.default_rng(2).normal(size=7) * 3
    theirs = stats.ttest_ind(one, -two, equal_var=False).confidence_interval()
    assert interval(mean_of, [one, two]) == pytest.approx((theirs.low / 2, theirs.high / 2))


def test_the_bootstrapped_error_of_a_mean_is_the_usual_one():
    values = np.random.default_rng(3).normal(size=6)
    theirs = stats.ttest_1samp(values, 0).confidence_interval()
    ours = interval(lambda scores: mean_of(scores), [values], num_resamples=50_000)
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_the_error_of_the_iqm_is_that_of_all_resamples():
    """Three runs have 27 equally likely resamples; the variance of their IQMs, times 3/2, with 2 degrees of freedom."""
    runs = np.array([0.0, 3.0, 12.0])
    every = [float(iqm(draw)) for draw in itertools.product(runs, repeat=3)]
    half = stats.t.ppf(0.975, 2) * np.sqrt(np.var(every) * 1.5)
    low, high = interval(iqm_of, [runs], num_resamples=50_000)
    assert (low, high) == (pytest.approx(4.0 - half, rel=0.02), pytest.approx(4.0 + half, rel=0.02))


def test_points_of_a_curve_are_reduced_one_by_one():
    rows = np.random.default_rng(4).normal(size=(3, 5))
    low, high = interval(iqm_of, [rows])
    for point in range(3):
        one = interval(iqm_of, [rows[point]])
        assert (low[point], high[point]) == pytest.approx(one)


def test_there_is_none_of_one_seed_and_none_of_equal_ones():
    for scores in (
        [np.array([1.0])],
        [np.ones(5)],
        [np.arange(3.0), np.array([1.0])],
        [np.full(4, 0.1), np.full(3, 0.3)],
    ):
        for statistic in (iqm_of, mean_of):
            assert np.isnan(interval(statistic, scores)).all()


def test_the_same_seed_gives_the_same_interval_whatever_the_global_generator():
    values = [np.random.default_rng(0).normal(size=6)]
    np.random.seed(1)
    one = interval(iqm_of, values, num_resamples=500)
    np.random.seed(2)
    two = interval(iqm_of, values, num_resamples=500)
    assert one == two
    assert one != interval(iqm_of, values, num_resamples=500, seed=1)


def test_a_share_that_is_none_is_refused():
    with pytest.raises(ValueError, match="confidence=1"):
        interval(mean_of, [np.arange(3.0)], confidence=1)
