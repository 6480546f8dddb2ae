"""Aggregates, comparisons and intervals of studies, by hand and against scipy."""

from __future__ import annotations

from functools import partial

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
    share_above,
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
    """At 3 both runs of task 2 are above and none of task 1, in every resample."""
    profile = performance_profile(A, np.array([-1.0, 0.0, 3.0, 6.0]))
    assert [one.value for one in profile] == [1.0, 0.75, 0.5, 0.0]
    assert profile[0] == Estimate(1.0, 1.0, 1.0)
    assert profile[1] == Estimate(0.75, 0.5, 1.0)
    assert profile[2] == Estimate(0.5, 0.5, 0.5)


def test_the_median_of_one_task_is_that_of_its_seeds():
    assert median_of([[np.array([1.0, 2.0, 9.0])]]) == 2.0


def test_every_statistic_of_resamples_is_that_of_each_resample():
    """Vectorised over the resamples; a loop says the same."""
    generator = np.random.default_rng(0)
    arms = [[generator.normal(size=(7, 5)), generator.normal(size=(7, 3))] for _ in range(4)]
    gap = partial(optimality_gap, target=0.5)
    above = partial(share_above, threshold=0.1)
    for statistic in (iqm_of, mean_of, median_of, gap, above, iqm_difference, interaction):
        loop = [statistic([[scores[row] for scores in arm] for arm in arms]) for row in range(7)]
        assert statistic(arms) == pytest.approx(np.array(loop))
    loop = [probability_of_improvement([[scores[row] for scores in arm] for arm in arms[:2]]) for row in range(7)]
    assert probability_of_improvement(arms[:2]) == pytest.approx(np.array(loop))


def test_aggregates_are_those_of_rliable():
    """Scores ``(runs, tasks)`` there. Optional: it breaks on a fresh install."""
    metrics = pytest.importorskip("rliable.metrics", exc_type=ImportError)
    first, second = np.random.default_rng(0).uniform(size=(2, 8, 3))
    ours = [list(first.T)]
    assert iqm_of(ours) == pytest.approx(metrics.aggregate_iqm(first))
    assert mean_of(ours) == pytest.approx(metrics.aggregate_mean(first))
    assert median_of(ours) == pytest.approx(metrics.aggregate_median(first))
    assert optimality_gap(ours, 0.7) == pytest.approx(metrics.aggregate_optimality_gap(first, 0.7))
    assert probability_of_improvement([*ours, list(second.T)]) == pytest.approx(
        metrics.probability_of_improvement(second, first)
    )


def test_intervals_and_profiles_are_those_of_rliable():
    metrics = pytest.importorskip("rliable.metrics", exc_type=ImportError)
    try:
        from rliable import library
    except (ImportError, TypeError) as error:  # its dependency arch 7 does not import beside pandas 3
        pytest.skip(str(error))
    scores = np.random.default_rng(0).uniform(size=(8, 3))
    _, theirs = library.get_interval_estimates(
        {"arm": scores}, lambda x: np.array([metrics.aggregate_iqm(x)]), reps=5000
    )
    ours = estimate(iqm_of, [list(scores.T)], num_resamples=5000)
    assert (ours.low, ours.high) == pytest.approx(theirs["arm"].ravel().tolist(), abs=0.02)
    thresholds = np.array([0.2, 0.5, 0.8])
    points, bands = library.create_performance_profile({"arm": scores}, thresholds, reps=2000)
    profile = performance_profile(list(scores.T), thresholds)
    assert [one.value for one in profile] == pytest.approx(points["arm"].tolist())
    assert [one.low for one in profile] == pytest.approx(bands["arm"][0].tolist(), abs=0.05)
    assert [one.high for one in profile] == pytest.approx(bands["arm"][1].tolist(), abs=0.05)


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
