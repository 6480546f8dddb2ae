"""The sum tree against cumulative sums."""

from __future__ import annotations

import math

import numpy as np
import pytest

from plasticity_rl.replay.sum_tree import SumTree, tree_bytes


def tree_of(leaves) -> SumTree:
    tree = SumTree(len(leaves))
    tree.rebuild(np.array(leaves, np.float32))
    return tree


def slots(*numbers) -> np.ndarray:
    return np.array(numbers, np.int64)


def test_by_hand():
    tree = tree_of([3, 0, 1, 4, 2])  # 3 | 3 | 4 | 8 | 10
    assert tree.total == 10
    assert tree.find(np.array([0, 2.5, 3, 3.5, 4, 7.99, 8, 10])).tolist() == [0, 0, 2, 2, 3, 3, 4, 4]
    tree.set(slots(3, 1), np.array([0.5, 1.5]))  # 3 | 4.5 | 5.5 | 6 | 8
    assert tree.total == 8
    assert tree.find(np.array([3, 4.5, 5.5, 6])).tolist() == [1, 2, 3, 4]
    assert tree.leaves.tolist() == [3, 1.5, 1, 0.5, 2]
    assert tree[slots(4, 1)].tolist() == [2, 1.5]


def test_its_size_is_known_before_it_is_made():
    """A million leaves are 16 MB: twice as many nodes as the next power of two, of 8 bytes."""
    assert [tree_bytes(n) for n in (1, 2, 3, 4, 5, 2**20, 2**20 + 1)] == [16, 32, 64, 64, 128, 2**24, 2**25]
    assert all(tree_bytes(n) == SumTree(n)._nodes.nbytes for n in (1, 2, 3, 5, 1000))


def test_strata_by_hand():
    tree = tree_of([3, 0, 1, 4])  # four parts of 2: at 0.5, 2 + 1.5, 4 + 0, 6 + 1.9
    assert tree.draw(np.array([0.25, 0.75, 0, 0.95])).tolist() == [0, 2, 3, 3]


def test_of_a_leaf_that_is_set_twice_the_last_value_counts():
    tree = tree_of([1, 1, 1])
    tree.set(slots(1, 1, 1), np.array([5.0, 7.0, 2.0]))
    assert tree.leaves.tolist() == [1, 2, 1]
    assert tree.total == 4


@pytest.mark.parametrize("num_leaves", [1, 2, 3, 7, 8, 9, 100, 1000])
def test_changed_bit_by_bit_it_equals_one_made_anew_and_cumulative_sums(num_leaves):
    rng = np.random.default_rng(num_leaves)
    tree, plain = SumTree(num_leaves), np.zeros(num_leaves, np.float32)
    for count in [*range(25), *range(25)]:  # few are set one after the other, many together
        some = rng.integers(num_leaves, size=count)
        values = np.where(rng.random(count) < 0.3, 0, rng.exponential(size=count) ** 5).astype(np.float32)
        tree.set(some, values)
        for slot, value in zip(some, values, strict=True):
            plain[slot] = value
    tree.set(slots(0), np.array([1.5]))
    plain[0] = 1.5
    assert np.array_equal(tree.leaves, plain)
    assert tree.leaves.dtype == np.float32
    assert np.array_equal(tree_of(plain)._nodes, tree._nodes), "not the same bits"
    sums = np.cumsum(plain, dtype=np.float64)
    assert tree.total == pytest.approx(sums[-1], rel=1e-12)
    masses = rng.random(1000) * tree.total
    far = np.abs(masses[:, None] - sums).min(1) > 1e-9 * tree.total  # rounding decides about those on an edge
    assert far.sum() > 900
    assert np.array_equal(tree.find(masses)[far], np.searchsorted(sums, masses[far], side="right"))


def test_nothing_without_weight_is_found_even_at_the_very_end():
    rng = np.random.default_rng(0)
    for _ in range(200):
        leaves = np.where(rng.random(37) < 0.8, 0, rng.exponential(size=37)).astype(np.float32)
        leaves[rng.integers(37)] = 0.1
        tree = tree_of(leaves)
        ends = np.array([0.0, np.nextafter(tree.total, 0), tree.total, np.nextafter(tree.total, np.inf)])
        assert (leaves[tree.find(ends)] > 0).all()
        assert (leaves[tree.draw(np.full(32, np.nextafter(1, 0)))] > 0).all()


@pytest.mark.parametrize("draws", [1, 32])
def test_draws_are_in_proportion(draws):
    rng = np.random.default_rng(3)
    leaves = np.where(np.arange(50) % 5 == 0, 0, rng.exponential(size=50)).astype(np.float32)
    tree, repeats = tree_of(leaves), 64_000 // draws
    counts = np.bincount(np.concatenate([tree.draw(rng.random(draws)) for _ in range(repeats)]), minlength=50)
    expected = leaves / leaves.sum() * repeats * draws
    assert not counts[leaves == 0].any()
    chi2 = ((counts - expected)[leaves > 0] ** 2 / expected[leaves > 0]).sum()
    freedom = (leaves > 0).sum() - 1
    assert chi2 < freedom + 5 * math.sqrt(2 * freedom), "not in proportion"


def test_strata_are_covered_evenly():
    tree, rng = tree_of(np.ones(64)), np.random.default_rng(0)
    drawn = np.stack([tree.draw(rng.random(32)) for _ in range(100)])
    assert (drawn // 2 == np.arange(32)).all(), "each draw comes from its own two leaves"
