"""How many seeds a comparison needs: against published numbers, scipy, and the test that reports use."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from plasticity_rl.study.comparisons import LEVEL, compare, corrected, pairs_needed, sign_flip_p
from plasticity_rl.study.power import power_of_flips, power_of_pairs, seeds_needed
from plasticity_rl.study.rows import comparisons_of, seeds_in_words


@pytest.mark.parametrize(("effect", "seeds"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_one_task_as_tables_of_the_paired_t_test_have_it(effect, seeds):
    """Differences of 0.2, 0.5, 0.8 and 1 standard deviations at 0.05, two-sided, power 0.8: as G*Power says."""
    assert seeds_needed(effect, [1.0], 0.05) == seeds
    assert seeds_needed(-3 * effect, [3.0], 0.05) == seeds, "neither sign nor unit matter"


def test_the_power_is_that_of_the_noncentral_t():
    critical = stats.t.ppf(1 - 0.0125 / 2, 11)
    expected = stats.nct.sf(critical, 11, 0.7 / (1.5 / math.sqrt(12)))
    assert power_of_pairs(0.7, [1.5], 12, 0.0125) == pytest.approx(expected, rel=1e-6)
    assert power_of_pairs(1e6, [1.0], 5, 0.05) == 1.0


def test_tasks_share_the_error_and_add_their_freedoms():
    """Of equal spread: error by sqrt(2) smaller, twice the degrees of freedom; a task without spread adds none."""
    critical = stats.t.ppf(0.975, 18)
    expected = stats.nct.sf(critical, 18, 0.5 / (1 / math.sqrt(20)))
    assert power_of_pairs(0.5, [1.0, 1.0], 10, 0.05) == pytest.approx(expected, rel=1e-6)
    alone = stats.nct.sf(stats.t.ppf(0.975, 9), 9, 0.5 / (1 / math.sqrt(10) / 2))
    assert power_of_pairs(0.5, [1.0, 0.0], 10, 0.05) == pytest.approx(alone, rel=1e-6)


def test_never_fewer_than_a_verdict_needs_nor_more_than_a_thousand():
    assert seeds_needed(100.0, [1.0], 0.05) == 5
    assert seeds_needed(100.0, [1.0], 0.05, fewest_pairs=9) == 9
    assert seeds_needed(100.0, [1.0, 1.0], 0.05, fewest_pairs=11) == 6
    assert seeds_needed(0.05, [1.0], 0.05) is None  # 3142
    assert seeds_needed(0.09, [1.0], 0.05) == 971
    number = seeds_needed(0.06, [1.0, 1.0, 1.0], 0.05)
    assert number is not None
    assert 700 < number < 760, "on each of three tasks: no float counts the flips of so many pairs"


@pytest.mark.parametrize(("effect", "spreads"), [(0.0, [1.0]), (1.0, [0.0]), (1.0, [math.nan]), (math.nan, [1.0])])
def test_no_effect_or_no_spread_is_no_number(effect, spreads):
    assert seeds_needed(effect, spreads, 0.05) is None


def test_so_many_seeds_do_decide_by_sign_flips():
    """The t test stands for the flips: of 100 studies with the number of seeds about 80 find the difference (+- 4)."""
    number = seeds_needed(1.0, [1.0], LEVEL)
    generator = np.random.default_rng(0)
    found = [sign_flip_p([generator.normal(1.0, 1.0, number)]) <= LEVEL for _ in range(100)]
    assert 0.68 <= np.mean(found) <= 0.92


def test_at_the_smallest_number_of_pairs_all_must_lie_on_one_side():
    """Four comparisons, eight pairs: 2 / 2^8 is below 0.05 / 4, the next 4 / 2^8 is not. The t test promises 0.8."""
    effect, level = 1.54, LEVEL / 4
    assert power_of_pairs(effect, [1.0], 8, level) == pytest.approx(0.8, abs=0.01)
    assert power_of_flips(effect, [1.0], 8, level) == pytest.approx(stats.norm.cdf(effect) ** 8)
    generator = np.random.default_rng(0)
    pairs = generator.normal(effect, 1.0, (1000, 8))
    found = [bool((row > 0).all()) for row in pairs]
    assert np.mean(found) == pytest.approx(power_of_flips(effect, [1.0], 8, level), abs=0.05)
    assert [sign_flip_p([row]) <= level for row in pairs[:60]] == found[:60]
    assert seeds_needed(effect, [1.0], level, fewest_pairs=8) == 9
    assert power_of_flips(effect, [1.0], 9, level) == power_of_pairs(effect, [1.0], 9, level)
    assert power_of_flips(2.0, [1.0, 1.0], 4, level) == pytest.approx(stats.norm.cdf(2.0) ** 8), "of both tasks"


OLD = {"walk": dict.fromkeys(range(1, 7), 0.0)}
NEW = {"walk": {1: -1.0, 2: 3.0, 3: 0.0, 4: 2.0, 5: -1.0, 6: 3.0}}
"""Mean 1; squares about it 4, 4, 1, 1, 4, 4: variance 18 / 5."""


def test_a_comparison_by_hand():
    one, two = corrected([compare("new", [NEW], [OLD], ["walk"]), compare("other", [NEW], [OLD], ["walk"])])
    assert one.spreads == pytest.approx((math.sqrt(18 / 5),))
    assert one.verdict == "undecided" or one.verdict.startswith("none: p (Holm)")
    expected = seeds_needed(1.0, [math.sqrt(18 / 5)], 0.05 / 2, fewest_pairs=pairs_needed(2))
    assert one.seeds_to_decide() == expected > 30
    assert one.seeds_to_decide(3.0) < expected
    head, row, _ = comparisons_of([one, two], 1, verdicts=True)
    assert (head[-1], row[-1]) == ("seeds to decide", str(expected))
    assert comparisons_of([one], 1, verdicts=True, effect=0.01)[1][-1] == "over 1,000"
    assert "seeds to decide" not in comparisons_of([one], 1, verdicts=False)[0]


def test_nothing_is_said_where_it_is_decided_or_pairs_are_equal():
    decided = compare(
        "new", [{"walk": {seed: 10.0 + seed for seed in range(8)}}], [{"walk": dict.fromkeys(range(8), 0.0)}], ["walk"]
    )
    (decided,) = corrected([decided])
    assert decided.is_decided
    assert seeds_in_words(decided, None) == ""
    equal = compare("new", [{"walk": {1: 1.0, 2: 1.0}}], [{"walk": {1: 0.0, 2: 0.0}}], ["walk"])
    assert seeds_in_words(*corrected([equal]), None) == ""
    assert seeds_in_words(replace(equal, spreads=()), None) == ""
