"""Comparisons of arms: pairs, sign flips and Holm's correction, by hand and against scipy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from plasticity_rl.study.comparisons import (
    LEVEL,
    MOST_EXACT,
    compare,
    corrected,
    correlation,
    holm,
    pairs_needed,
    sign_flip_p,
    smallest_p,
)

OLD = {"walk": {1: 1.0, 2: 5.0, 3: 9.0}, "run": {1: 10.0, 2: 30.0}}
NEW = {"walk": {1: 2.0, 2: 7.0, 3: 12.0, 4: 0.0}, "run": {2: 34.0, 3: 1.0}}


def test_a_comparison_by_hand():
    """Walk: 1, 2, 3 with mean 2. Run: seed 2 alone, 4. Mean over tasks 3; one pair on a task gives no interval."""
    found = compare("new", [NEW], [OLD], ["walk", "run", "stand"])
    assert (found.tasks, found.without, found.pairs) == (("walk", "run"), ("stand",), (3, 1))
    assert found.difference.value == 3.0
    assert not found.difference.has_interval
    # Weights 1/3, 2/3, 3/3 and 4: as large as their sum are the flips that leave all, or turn all: 2 of 16.
    assert found.p == 2 / 16
    assert compare("none", [NEW], [{"walk": {7: 1.0}}], ["walk", "run"]) is None


def test_the_interval_of_pairs_is_that_of_scipy():
    generator = np.random.default_rng(0)
    old, new = generator.normal(size=(2, 6))
    found = compare("new", [{"walk": dict(enumerate(new))}], [{"walk": dict(enumerate(old))}], ["walk"])
    theirs = stats.ttest_rel(new, old).confidence_interval()
    assert (found.difference.low, found.difference.high) == pytest.approx((theirs.low, theirs.high))
    assert found.correlation == pytest.approx(stats.pearsonr(old, new).statistic)


def test_an_interaction_is_the_difference_of_differences():
    one, two, three, four = ({"walk": {1: value, 2: value + 1}} for value in (5.0, 6.0, 1.0, 5.0))
    assert compare("both", [four, one], [three, two], ["walk"]).difference.value == 3.0  # 5 - 1 - (6 - 5)


def test_correlation_is_within_tasks():
    """Tasks that differ in scale would make any two arms go together."""
    old, new = [np.array([1.0, 2.0, 3.0]), np.array([101.0, 102.0, 103.0])], [np.array([3.0, 2.0, 1.0])] * 2
    assert correlation(old, new) == -1.0
    assert math.isnan(correlation([np.array([1.0, 2.0])], [np.array([1.0, 2.0])])), "two pairs always lie on a line"
    assert math.isnan(correlation([np.ones(3)], [np.ones(3)]))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(-5, 5), min_size=2, max_size=7))
def test_sign_flips_one_by_one(differences):
    """The share of all flips whose sum is as far from 0, by a loop."""
    sums = [np.dot(signs, differences) for signs in itertools.product((-1, 1), repeat=len(differences))]
    expected = np.mean([abs(one) >= abs(sum(differences)) for one in sums])
    assert sign_flip_p([np.array(differences, dtype=float)]) == pytest.approx(expected)


def test_every_task_weighs_the_same_in_the_flips():
    """Five pairs of +1 on one task against one of -1 on the other: the means cancel, so every flip is as large."""
    assert sign_flip_p([np.ones(5), -np.ones(1)]) == 1.0


@pytest.mark.parametrize("number", [2, 5, 8, MOST_EXACT, MOST_EXACT + 1, 30])
def test_the_smallest_p(number):
    assert sign_flip_p([np.linspace(1, 2, number)]) == pytest.approx(smallest_p(number))


def test_one_pair_says_nothing():
    assert sign_flip_p([np.array([3.0])]) == smallest_p(1) == 1.0


def test_pairs_needed():
    """2 / 2 ** 6 is 0.031, 2 / 2 ** 5 is 0.0625; four times 2 / 2 ** 8 is 0.031."""
    assert [pairs_needed(number) for number in (0, 1, 2, 3, 4, 8)] == [0, 6, 7, 7, 8, 9]
    for number in range(1, 20):
        assert number * smallest_p(pairs_needed(number)) <= LEVEL < number * smallest_p(pairs_needed(number) - 1)


def test_holm_by_hand():
    """Times 3, 2, 1 from the smallest on, and never below one before."""
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    assert holm([0.01, 0.04], number=4) == pytest.approx([0.04, 0.12]), "two of four: as if the others were larger"


def test_a_family_knows_its_number():
    family = corrected([compare("new", [NEW], [OLD], ["walk"]), compare("old", [OLD], [NEW], ["walk"])])
    assert [one.family for one in family] == [2, 2]
    assert [one.p_holm for one in family] == [0.5, 0.5]
    assert [one.smallest_p for one in family] == [0.5, 0.5]


def test_a_part_of_a_family_claims_no_more_than_the_whole():
    (one,) = corrected([compare("new", [NEW], [OLD], ["walk"])], number=4)
    assert (one.family, one.p_holm, one.smallest_p) == (4, 1.0, 1.0)


def test_the_smallest_p_is_that_of_holm_with_unequal_pairs():
    """Ten pairs and six, all on one side: 2 * 2 / 1024 and 1 * 2 / 64, so that both can have a verdict."""
    many, few = ({"walk": dict.fromkeys(range(number), 0.0)} for number in (10, 6))
    above = {"walk": {seed: 1.0 + seed for seed in range(10)}}
    family = corrected([compare("many", [above], [many], ["walk"]), compare("few", [above], [few], ["walk"])])
    assert [one.smallest_p for one in family] == pytest.approx([4 / 1024, 2 / 64])
    assert [one.verdict for one in family] == ["above 0", "above 0"]


def arms_of(pairs):
    """Return two arms, the second above the first, with so many pairs on each task."""
    old = {task: dict.fromkeys(range(number), 0.0) for task, number in pairs.items()}
    return old, {task: {seed: 1.0 + seed for seed in seeds} for task, seeds in old.items()}


def test_the_smallest_p_counts_the_pairs_of_all_tasks():
    """Five pairs on each of two tasks: 2 / 2 ** 10, where five alone allow no verdict."""
    old, new = arms_of({"walk": 5, "run": 5})
    (one,) = corrected([compare("new", [new], [old], ["walk", "run"])])
    assert one.smallest_p == one.p == 2 / 1024
    assert one.verdict == "above 0"


def test_the_task_with_the_fewest_pairs_decides_whether_there_is_a_verdict():
    old, new = arms_of({"walk": 9, "run": 4})
    (one,) = corrected([compare("new", [new], [old], ["walk", "run"])])
    assert one.p_holm < LEVEL
    assert one.verdict == "none: fewer than 5 pairs on a task"
