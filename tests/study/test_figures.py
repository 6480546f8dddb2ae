"""Figures of a report."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_studies import flat, study_of

from plasticity_rl.cli.study_reports import make_report_of
from plasticity_rl.results.panels import FAINT, look
from plasticity_rl.study.figures import draw_curves, draw_profiles, draw_scores
from plasticity_rl.study.panels import chart_of
from plasticity_rl.study.report import Report
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


def made(where: Path, number: int, seeds: int) -> Report:
    """Return the report on so many arms, each 10 above the one before it."""
    arms = [f"arm{index}" for index in range(number)]

    def curves(run):
        return {"eval/return": flat(10.0 * arms.index(run.arm) + run.seed), "fau/critic": flat(0.5)}

    return make_report_of(read_study(study_of(where, curves, arms=arms, seeds=seeds)))


def test_a_line_of_an_interval_ends_where_the_interval_does(tmp_path):
    """A projecting cap goes on by half the width of the line: across the 0 that the interval is beside."""
    figure = draw_scores(made(tmp_path, 2, 5))
    thick = [line for axis in figure.axes for line in axis.lines if line.get_linewidth() > 2]
    assert thick
    assert {line.get_solid_capstyle() for line in thick} == {"butt"}


@pytest.mark.parametrize(("arms", "seeds", "bands"), [(2, 4, 0), (2, 5, 2), (4, 5, 4), (5, 5, 0)])
def test_profiles_have_bands_from_five_seeds_on_and_of_at_most_four_arms(tmp_path, arms, seeds, bands):
    (axis,) = draw_profiles(made(tmp_path, arms, seeds)).axes
    assert len(axis.lines) == arms
    assert len(axis.collections) == bands


def test_four_arms_share_axes(tmp_path):
    figure = draw_curves(made(tmp_path, 4, 1))
    assert [len(axis.lines) for axis in figure.axes] == [4, 4]


def test_a_line_says_how_many_seeds_it_has_and_one_over_all_tasks_the_least_and_the_most(tmp_path):
    def curves(run):
        return None if run.task == "run" and run.seed > 3 else {"eval/return": flat(1.0), "fau/critic": flat(0.5)}

    report = make_report_of(read_study(study_of(tmp_path, curves, arms=("plain",), tasks=("walk", "run"))))
    assert [(panel.task, [line.words for line in panel.lines]) for panel in chart_of(report).panels] == [
        *[("walk", ["plain, 5 seeds"])] * 2,
        *[("run", ["plain, 3 seeds"])] * 2,
        ("all tasks", ["plain, 3 to 5 seeds"]),
    ]


def test_more_arms_have_axes_of_their_own_with_the_baseline_behind(tmp_path):
    """As in a plot; all others behind would be 38 times 38 lines for 38 arms."""
    report = made(tmp_path, 5, 1)
    figure = draw_curves(report)
    panels = [axis for axis in figure.axes if axis.axison]
    assert [axis.get_title(loc="left") for axis in panels[:2]] == [
        "arm0, 1\N{NO-BREAK SPACE}seed",
        "arm1, 1\N{NO-BREAK SPACE}seed",
    ]
    assert len(panels) == 2 * 5
    for index, axis in enumerate(panels[:5]):
        found = [(line.get_color(), line.get_ydata()[0]) for line in axis.lines]
        assert found == [(FAINT, 1.0)] * (index > 0) + [(look(index).colour, 10.0 * index + 1)]
    (below,) = figure.legends
    assert below.texts[0].get_text() == "Every panel shows one arm in colour, the baseline (arm0) in grey."
    assert len([axis for axis in draw_curves(report, ["fau/critic"]).axes if axis.axison]) == 5
