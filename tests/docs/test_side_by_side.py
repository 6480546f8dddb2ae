"""The tables of methods on ``docs/choosing.md``: what kept runs and the files of tests say."""

from __future__ import annotations

import re

import evidence
import numpy as np
import pytest
import side_by_side
from cli_runs import REPOSITORY

STUDIES = ("mini/interventions", "mini/newer_methods")


@pytest.fixture(scope="module", params=STUDIES)
def report(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        return evidence.report_of(side_by_side.kept_of(request.param))


def test_the_page_has_what_is_kept(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    text = side_by_side.PAGE.read_text()
    assert side_by_side.page(text) == text, "make evidence"


def test_a_row_for_each_arm_with_its_callbacks_and_tests(report):
    """At least five seeds each; the difference is that of the runs' scores, seed by seed."""
    rows = {row[0].strip("`"): row for row in side_by_side.rows_of(report)}
    (levels,) = report.study.factors.values()
    assert list(rows) == sorted(arm for arm in levels if arm != "none")
    scores = {arm: {} for arm in levels}
    for score in report.scores:
        scores[score.arm][score.run.seed] = score.values[report.study.primary]
    for arm, row in rows.items():
        assert int(row[4]) >= 5
        files = re.findall(r"`(tests/\S+)`", row[2])
        assert len(files) >= len(set(side_by_side.callbacks_of(levels[arm]))) > 0
        difference = np.mean([value - scores["none"][seed] for seed, value in scores[arm].items()])
        assert float(row[5].split()[0]) == pytest.approx(difference, abs=0.05)


def test_files_of_tests():
    assert side_by_side.tests_of("DASH") == ["tests/interventions/test_dash.py"]
    assert side_by_side.tests_of("TRAC") == ["tests/optim/test_trac.py"]
    assert side_by_side.tests_of("SpectralNorm") == ["tests/interventions/test_weight_architectures.py"]


def test_callbacks_of_files_and_options():
    items = ["configs/interventions/dash.yaml", "trainer.callbacks+=callbacks.Reset", "trainer.callbacks.a=1"]
    assert side_by_side.callbacks_of(items) == ["DASH", "Reset"]
