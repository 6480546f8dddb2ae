"""The table of newer methods on ``docs/choosing.md``: what kept runs and the files of tests say."""

from __future__ import annotations

import re

import evidence
import newer_methods
import numpy as np
import pytest
from cli_runs import REPOSITORY


@pytest.fixture(scope="module")
def report():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        return evidence.report_of(newer_methods.KEPT)


def test_the_page_has_what_is_kept(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    text = newer_methods.PAGE.read_text()
    assert newer_methods.page(text) == text, "make evidence"


def test_a_row_for_each_arm_with_its_callbacks_and_tests(report):
    """At least five seeds each; the difference is that of the runs' scores, seed by seed."""
    rows = {row[0].strip("`"): row for row in newer_methods.rows_of(report)}
    (levels,) = report.study.factors.values()
    assert list(rows) == [arm for arm in levels if arm != "none"]
    scores = {arm: {} for arm in levels}
    for score in report.scores:
        scores[score.arm][score.run.seed] = score.values[report.study.primary]
    for arm, row in rows.items():
        assert int(row[4]) >= 5
        files = re.findall(r"`(tests/\S+)`", row[2])
        assert len(files) == len(newer_methods.callbacks_of(levels[arm]))
        difference = np.mean([value - scores["none"][seed] for seed, value in scores[arm].items()])
        assert float(row[5].split()[0]) == pytest.approx(difference, abs=0.05)


def test_callbacks_of_files_and_options():
    items = ["configs/interventions/dash.yaml", "trainer.callbacks+=callbacks.Reset", "trainer.callbacks.a=1"]
    assert newer_methods.callbacks_of(items) == ["DASH", "Reset"]
