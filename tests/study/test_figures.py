"""Figures of a report."""

from __future__ import annotations

import pytest
from made_studies import flat, study_of

from plasticity_rl.cli.study_reports import make_report_of
from plasticity_rl.study.figures import draw_profiles
from plasticity_rl.study.spec import read_study


@pytest.mark.parametrize(("first", "step"), [(-20.0, 3.0), (5.0, 3.0), (-3.0, 2.0), (0.0, 0.0)])
def test_a_profile_spans_all_returns_also_those_below_zero(tmp_path, first, step):
    """Where 0 is below or above all of them it begins or ends there; above the largest there is no run."""
    path = study_of(tmp_path, lambda run: {"eval/return": flat(first + step * run.seed)}, arms=("plain",), seeds=4)
    (axis,) = draw_profiles(make_report_of(read_study(path))).axes
    (line,) = axis.lines
    thresholds, shares = line.get_data()
    returns = [first + step * seed for seed in range(1, 5)]
    assert thresholds[0] == min(0.0, *returns)
    assert thresholds[-1] == (max(0.0, *returns) or (1.0 if min(returns) == 0 else 0.0))
    for threshold, share in zip(thresholds, shares, strict=True):
        assert share == sum(value > threshold for value in returns) / 4
