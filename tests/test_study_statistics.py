"""Aggregates, comparisons and intervals of studies, by hand and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from plasticity_rl.study_statistics import (
    Estimate,
    estimate,
    interaction,
    iqm_difference,
    iqm_of,
    mean_of,
    median_of,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
)

A = [np.array([0.0, 2.0]), np.array([4.0, 6.0])]
B = [np.array([1.0, 3.0]), np.array([4.0, 10.0])]
scores = st.lists(st.integers(0, 20), min_size=1, max_size=6)


def test_aggregates_by_hand():
    assert iqm_of([A]) == 3.0  # the middle half of 0, 2, 4, 6
    assert iqm_of([B]) == 3.5  # of 1, 3, 4, 10: 3 and 4
    assert iqm_difference([A, B]) == 0.5
    assert mean_of([A]) == 3.0  # task means 1 and 5
    assert median_of([[*A, np.array([100.0])]]) == 5.0  # task means 1, 5, 100
    assert optimality_gap([A], 5.0) == 5 - (0 + 2 + 4 + 5) / 4
    assert optimality_gap([A], 0.0) == 0.0


def test_probability_of_improvement_by_hand():
    """Task 1: 1 > 0, 1 < 2, 3 > 0, 3 > 2: 3/4. Task 2: 4 = 4, 4 < 6, 10 > 4, 10 > 6: 2.5/4."""
    assert probability_of_improvement([A, B]) == (0.75 + 0.625) / 2
    assert probability_of_improvement([A, A]) == 0.5


@given(scores, scores)
def test_probability_of_improvement_is_mann_whitneys_u(old, new):
    u = stats.mannwhitneyu(new, old).statistic / (len(new) * len(old))
    ours = probability_of_improvement([[np.array(old, float)], [np.array(new, float)]])
    assert ours == pytest.approx(u)
    assert probability_of_improvement([[np.array(new, float)], [np.array(old, float)]]) == pytest.approx(1 - ours)


def test_interaction_by_hand():
    """The second factor adds 1 at the first level of the first factor, and 4 at the second."""
    one = lambda value: [np.array([value])]  # noqa: E731
    assert interaction([one(5.0), one(6.0), one(1.0), one(5.0)]) == 3.0
    assert interaction([one(5.0), one(6.0), one(1.0), one(2.0)]) == 0.0


def test_profile_by_hand():
    assert performance_profile(A, np.array([-1.0, 0.0, 3.0, 6.0])).tolist() == [1.0, 0.75, 0.5, 0.0]


def test_an_interval_is_that_of_scipy_for_a_mean_of_one_task():
    values = np.random.default_rng(1).normal(size=12)
    ours = estimate(mean_of, [[values]], num_resamples=20_000, seed=2)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(3)
    ).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_tasks_are_not_resampled():
    """Scores that differ between tasks alone leave nothing uncertain."""
    arm = [np.full(4, 1.0), np.full(4, 9.0)]
    assert estimate(mean_of, [arm]) == Estimate(5.0, 5.0, 5.0)


def test_equal_input_gives_equal_intervals_and_another_seed_others():
    arm = [np.arange(5.0)]
    assert estimate(iqm_of, [arm]) == estimate(iqm_of, [arm])
    first, second = (estimate(mean_of, [[np.random.default_rng(0).normal(size=5)]], seed=seed) for seed in (1, 2))
    assert first.value == second.value
    assert (first.low, first.high) != (second.low, second.high)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """Of 200 samples of 20 runs with mean 0; a percentile interval of so few runs is a little narrow."""
    generator = np.random.default_rng(0)
    samples = [estimate(mean_of, [[generator.normal(size=20)]], num_resamples=300, seed=i) for i in range(200)]
    assert 0.88 < np.mean([one.low <= 0 <= one.high for one in samples]) < 0.98


@pytest.mark.parametrize("bad", [[np.array([])], [np.array([1.0, np.nan])]])
def test_missing_and_nan_scores_are_refused(bad):
    with pytest.raises(ValueError, match="at least one finite score on every task"):
        estimate(mean_of, [bad])
    with pytest.raises(ValueError, match="confidence=1"):
        estimate(mean_of, [A], confidence=1)


def test_an_estimate_is_printed_with_its_interval():
    assert f"{Estimate(1.25, 0.5, 2.0):.1f}" == "1.2 [0.5, 2.0]"
