"""Aggregates, comparisons and intervals of studies, by hand and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from plasticity_rl.results.statistics import iqm_of, mean_of
from plasticity_rl.study.statistics import (
    Estimate,
    estimate,
    median_of,
    missed,
    performance_profile,
    probability_of_improvement,
    score_interval,
    share_above,
)

A = [np.array([0.0, 2.0]), np.array([4.0, 6.0])]
B = [np.array([1.0, 3.0]), np.array([4.0, 10.0])]
scores = st.lists(st.integers(0, 20), min_size=1, max_size=6)


def test_aggregates_by_hand():
    assert iqm_of(A) == 3.0  # the middle half of 0, 2, 4, 6
    assert iqm_of(B) == 3.5  # of 1, 3, 4, 10: 3 and 4
    assert mean_of(A) == 3.0  # task means 1 and 5
    assert median_of([*A, np.array([100.0])]) == 5.0  # task means 1, 5, 100
    assert mean_of(missed(A, 5.0)) == 5 - (0 + 2 + 4 + 5) / 4
    assert mean_of(missed(A, 0.0)) == 0.0
    assert share_above(A, 1.0) == 0.75


def test_every_task_weighs_the_same():
    """The same runs several times over on one task change nothing."""
    more = [A[0], np.tile(A[1], 3)]
    for statistic in (iqm_of, mean_of, median_of, lambda scores: share_above(scores, 4.5)):
        assert statistic(more) == pytest.approx(statistic(A))
    assert mean_of(missed(more, 5.0)) == pytest.approx(mean_of(missed(A, 5.0)))
    assert probability_of_improvement(more, [B[0], np.tile(B[1], 3)]).value == probability_of_improvement(A, B).value


def test_probability_of_improvement_by_hand():
    """Task 1: 1 > 0, 1 < 2, 3 > 0, 3 > 2: 3/4. Task 2: 4 = 4, 4 < 6, 10 > 4, 10 > 6: 2.5/4."""
    assert probability_of_improvement(A, B).value == (0.75 + 0.625) / 2
    assert probability_of_improvement(A, A).value == 0.5


@given(scores, scores)
def test_probability_of_improvement_is_mann_whitneys_u(old, new):
    u = stats.mannwhitneyu(new, old).statistic / (len(new) * len(old))
    ours = probability_of_improvement([np.array(old, float)], [np.array(new, float)]).value
    assert ours == pytest.approx(u)
    assert probability_of_improvement([np.array(new, float)], [np.array(old, float)]).value == pytest.approx(1 - ours)


@pytest.mark.parametrize(("hits", "number"), [(0, 3), (1, 5), (4, 8), (10, 10)])
def test_the_score_interval_is_that_of_scipy(hits, number):
    theirs = stats.binomtest(hits, number).proportion_ci(method="wilson")
    ours = score_interval(hits / number, number)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))


def test_arms_that_are_apart_leave_a_doubt():
    """All of three runs are better; the next may be none."""
    found = probability_of_improvement([np.arange(3.0)], [np.arange(3.0) + 10])
    assert (found.value, found.high) == (1.0, 1.0)
    assert 0.4 < found.low < 0.5


def test_intervals_count_all_tasks_with_the_fewest_runs_of_any():
    """Two tasks of three runs are six trials; where one arm or task has nine, still three a task."""
    few, many = np.arange(3.0), np.arange(9.0)
    assert probability_of_improvement([few, few], [few + 10, few + 10]) == score_interval(1.0, 6)
    assert probability_of_improvement([few], [many + 10]) == score_interval(1.0, 3)
    assert performance_profile([few, many], np.array([-1.0])) == [score_interval(1.0, 6)]


@pytest.mark.parametrize("gain", [0.0, 1.0])
def test_the_interval_of_an_improvement_holds_the_truth_often_enough(gain):
    generator = np.random.default_rng(5)
    truth = stats.norm.cdf(gain / np.sqrt(2))
    draws = [generator.normal(size=(2, 5)) for _ in range(400)]
    found = [probability_of_improvement([old], [new + gain]) for old, new in draws]
    assert np.mean([one.low <= truth <= one.high for one in found]) > 0.94


def test_profile_by_hand():
    """Of two tasks with two runs each; the interval is that of four trials."""
    profile = performance_profile(A, np.array([-1.0, 0.0, 3.0, 6.0]))
    assert [one.value for one in profile] == [1.0, 0.75, 0.5, 0.0]
    assert profile[1] == score_interval(0.75, 4)


def test_the_median_of_one_task_is_that_of_its_seeds():
    assert median_of([np.array([1.0, 2.0, 9.0])]) == 2.0


def test_every_statistic_of_resamples_is_that_of_each_resample():
    """Vectorised over the resamples; a loop says the same."""
    generator = np.random.default_rng(0)
    arm = [generator.normal(size=(7, 5)), generator.normal(size=(7, 3))]
    for statistic in (iqm_of, mean_of, median_of, lambda scores: share_above(scores, 0.1)):
        assert statistic(arm) == pytest.approx(np.array([statistic([one[row] for one in arm]) for row in range(7)]))


def test_aggregates_are_those_of_rliable():
    """Scores ``(runs, tasks)`` there. Optional: it breaks on a fresh install."""
    metrics = pytest.importorskip("rliable.metrics", exc_type=ImportError)
    first, second = np.random.default_rng(0).uniform(size=(2, 8, 3))
    ours = list(first.T)
    assert iqm_of(ours) == pytest.approx(metrics.aggregate_iqm(first))
    assert mean_of(ours) == pytest.approx(metrics.aggregate_mean(first))
    assert median_of(ours) == pytest.approx(metrics.aggregate_median(first))
    assert mean_of(missed(ours, 0.7)) == pytest.approx(metrics.aggregate_optimality_gap(first, 0.7))
    assert probability_of_improvement(ours, list(second.T)).value == pytest.approx(
        metrics.probability_of_improvement(second, first)
    )


def test_tasks_are_not_drawn_anew():
    """Scores that differ between tasks far more than between seeds leave little uncertain."""
    found = estimate(mean_of, [np.array([1.0, 1.1, 0.9]), np.array([9.0, 9.1, 8.9])])
    assert found.value == pytest.approx(5.0)
    assert found.high - found.low < 0.3


@pytest.mark.parametrize("bad", [[np.array([])], [np.array([1.0, np.nan])]])
def test_missing_and_nan_scores_are_refused(bad):
    with pytest.raises(ValueError, match="at least one finite score on every task"):
        estimate(mean_of, bad)


def test_an_estimate_is_printed_with_its_interval():
    assert f"{Estimate(1.25, 0.5, 2.0):.1f}" == "1.2 [0.5, 2.0]"
    assert f"{estimate(mean_of, [np.array([1.25])]):+.1f}" == "+1.2 [none]"
