"""The simulation behind docs/statistics.md: its distributions and rules, on few samples."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest
from cli_runs import REPOSITORY


@pytest.fixture
def coverage(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY))
    return importlib.import_module("benchmarks.coverage")


def test_distributions_are_what_they_say(coverage):
    """Means 100, 30 sqrt(e) = 49.5, and 2 + 98 / 3 = 34.7; pairs are correlated as asked, arms equal."""
    for shape, mean in (("normal", 100.0), ("skewed", 49.5), ("lottery", 34.7)):
        assert coverage.draw(shape, np.random.default_rng(0), (100_000,)).mean(axis=1) == pytest.approx(
            [mean] * 2, rel=0.02
        )
    old, new = coverage.draw("normal", np.random.default_rng(0), (100_000,), correlation=0.9)
    assert np.corrcoef(old, new)[0, 1] == pytest.approx(0.9, abs=0.01)


def test_the_inverted_test_by_hand(coverage):
    """Six pairs have 63 subsets; 2.5 % of 64 flips is the first, so the ends are the smallest and the largest pair."""
    assert coverage.inverted_sign_flips(np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])) == (1.0, 6.0)
    assert coverage.inverted_sign_flips(np.arange(5.0)) == (-np.inf, np.inf)


def test_the_same_seed_gives_the_same_tables(coverage, monkeypatch, tmp_path):
    texts = []
    for name in ("one.md", "two.md"):
        options = ["--samples", "3", "--resamples", "10", "--tables", "pairs", "--out", str(tmp_path / name)]
        monkeypatch.setattr(sys, "argv", ["coverage", *options])
        coverage.main()
        texts.append((tmp_path / name).read_text())
    assert texts[0] == texts[1]
    assert texts[0].count("\n") == 2 + 3 * 2 * 3
