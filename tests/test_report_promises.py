"""What ``study report`` must never promise: a defect of an earlier version each, through the command line alone."""

from __future__ import annotations

import math
import re
import sys

import numpy as np
import pytest
from made_studies import Curves, ends, flat, report_of, study_of, tables

from plasticity_rl.results.arms import aggregate
from plasticity_rl.results.runs import Curve
from plasticity_rl.study.study_run import StudyRun


@pytest.fixture(autouse=True)
def without_figures(monkeypatch, request):
    """They take most of the time."""
    if "finite" not in request.node.name:
        monkeypatch.setitem(sys.modules, "matplotlib", None)


# ---- 1: every task weighs the same -----------------------------------------------------------------------------------


def test_two_equal_arms_are_equal_however_many_of_their_seeds_are_finished(tmp_path):
    """100 on one task and 900 on the other, one of the arms with two of five seeds on the second: 500 both."""

    def curves(run: StudyRun) -> Curves | None:
        late = run.arm == "new" and run.task == "run" and run.seed > 2
        return None if late else {"eval/return": flat({"walk": 100.0, "run": 900.0}[run.task] + 0.1 * run.seed)}

    path = study_of(tmp_path, curves, tasks=("walk", "run"), max_return=1000)
    text = report_of(path, tmp_path / "out")
    plain, new = tables(text, "all tasks")[0]
    for column in ("IQM", "mean", "optimality gap"):
        assert float(plain[column].split()[0]) == pytest.approx(500, abs=1), column
        assert float(new[column].split()[0]) == pytest.approx(500, abs=1), column
    assert plain["seeds"] == "5 + 5"
    assert new["seeds"] == "5 + 2 (unbalanced)"
    assert "Unbalanced: seeds of new are 5 on walk, 2 on run; every task weighs the same." in text


# ---- 2: numbers that are none ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_curve_that_is_not_finite_is_named_and_left_out_of_its_rows(tmp_path, bad):
    def curves(run: StudyRun) -> Curves:
        fau = bad if (run.arm, run.seed) == ("new", 2) else 0.5 + 0.01 * run.seed
        return {"eval/return": flat(10.0 * run.seed), "fau/critic": {50: fau, 100: 0.5 + 0.01 * run.seed}}

    text = report_of(study_of(tmp_path, curves, seeds=3), tmp_path / "out")
    assert "Left out of its rows: walk/new/seed2: fau/critic is not finite at 1 point, first at frame 50." in text
    plain, new = tables(text, "walk")[0]
    assert new["FAU critic"].startswith("0.520 ")  # of 0.51 and 0.53
    assert new["IQM"].startswith("20.0 "), "its return is there"
    assert plain["FAU critic"].startswith("0.520 ")
    assert (tmp_path / "out" / "curves.png").is_file()


def test_a_return_that_is_not_finite_leaves_the_other_rows(tmp_path):
    def curves(run: StudyRun) -> Curves:
        return {"eval/return": flat(math.nan if run.seed == 1 else 10.0 * run.seed), "fau/critic": flat(0.1 * run.seed)}

    text = report_of(study_of(tmp_path, curves, seeds=3), tmp_path / "out")
    plain, _ = tables(text, "walk")[0]
    assert plain["IQM"].startswith("25.0 ")
    assert plain["FAU critic"].startswith("0.200 ")


def test_returns_of_which_none_is_finite_do_not_end_the_report(tmp_path):
    def curves(run: StudyRun) -> Curves:
        return {"eval/return": flat(math.nan), "fau/critic": flat(0.1 * run.seed)}

    text = report_of(study_of(tmp_path, curves, seeds=3), tmp_path / "out")
    assert tables(text, "walk")[0][0]["FAU critic"].startswith("0.200 ")
    assert (tmp_path / "out" / "scores.png").is_file()


# ---- 3: few seeds ----------------------------------------------------------------------------------------------------


def test_one_seed_has_no_interval(tmp_path):
    text = report_of(study_of(tmp_path, lambda run: {"eval/return": flat(5.0)}, seeds=1), tmp_path / "out")
    (row, _), *_ = tables(text, "walk")
    assert row["IQM"] == "5.00 [none]"
    assert not re.search(r"\[([-+\d.]+), \1\]", text), "an interval without width"


def test_below_five_seeds_nothing_is_said_in_words(tmp_path):
    """Two tasks of four seeds: eight pairs, all 100 apart; p is small, and yet there is no verdict."""

    def curves(run: StudyRun) -> Curves:
        return {"eval/return": flat(100.0 * (run.arm == "new") + run.seed)}

    text = report_of(study_of(tmp_path, curves, tasks=("walk", "run"), seeds=4), tmp_path / "out")
    assert "above 0" not in text
    assert tables(text, "Comparisons")[0][0]["verdict"] == "none: fewer than 5 pairs on a task"


@pytest.mark.parametrize(("seeds", "least"), [(3, 0.92), (5, 0.93), (10, 0.92)])
def test_bands_hold_the_truth_as_often_as_they_say(seeds, least):
    """400 independent points of a normal distribution; the percentiles held it at 0.75, 0.88 and 0.92 of them."""
    rows = np.random.default_rng(7).normal(size=(seeds, 400))
    band = aggregate([Curve(np.arange(400), row) for row in rows], max_points=400)
    assert np.mean((band.low <= 0) & (band.high >= 0)) >= least


# ---- 4: pairs --------------------------------------------------------------------------------------------------------


def test_runs_with_one_seed_are_a_pair(tmp_path):
    """Seeds are 100 apart, the arms 9, 10, 11, 10, 10: mean 10, deviation 0.71, so 10 +- 2.776 * 0.71 / sqrt(5)."""
    gains = {1: 9.0, 2: 10.0, 3: 11.0, 4: 10.0, 5: 10.0}

    def curves(run: StudyRun) -> Curves:
        return {"eval/return": flat(100.0 * run.seed + gains[run.seed] * (run.arm == "new"))}

    text = report_of(study_of(tmp_path, curves), tmp_path / "out")
    (row,) = tables(text, "Comparisons")[0]
    assert ends(row["difference"]) == (10.0, 9.1, 10.9)
    assert (row["pairs"], row["correlation"]) == ("5", "1.00")
    assert row["p"] == "0.062", "of 32 flips the two with all on one side"
    assert row["verdict"] == "none: p (Holm) cannot be below 0.062 here"


# ---- 5: many arms ----------------------------------------------------------------------------------------------------


ARMS = ("plain", "good", "same", "equal")


def test_p_values_are_corrected_for_the_number_of_arms(tmp_path):
    """Ten pairs: all of one sign is 2 of 1024 flips. Of 3 comparisons the smallest counts threefold."""

    def curves(run: StudyRun) -> Curves:
        noise = np.sin(37 * run.seed + ARMS.index(run.arm))
        return {"eval/return": flat(10 * noise + 100 * (run.arm == "good"))}

    path = study_of(tmp_path, curves, arms=ARMS, seeds=10)
    rows = {row["comparison"]: row for row in tables(report_of(path, tmp_path / "out"), "Comparisons")[0]}
    assert (rows["good"]["p"], rows["good"]["p (Holm)"], rows["good"]["verdict"]) == ("0.002", "0.0059", "above 0")
    for name in ("same", "equal"):
        assert rows[name]["verdict"] == "undecided"
        assert float(rows[name]["p (Holm)"]) >= float(rows[name]["p"])


def test_an_arm_without_runs_counts_in_the_correction(tmp_path):
    """Two comparisons, of which one can be made: its p counts for two, and in two secondary endpoints for four."""

    def curves(run: StudyRun) -> Curves | None:
        high = 100.0 * (run.arm == "new") + run.seed
        return None if run.arm == "newer" else {"eval/return": flat(high), "fau/critic": flat(high / 1000)}

    secondary = [{"tag": "fau/critic", "of": "final"}, {"tag": "eval/return", "of": "final"}]
    path = study_of(tmp_path, curves, arms=("plain", "new", "newer"), seeds=10, secondary=secondary)
    first, *later = tables(report_of(path, tmp_path / "out"), "Comparisons")
    assert [(row["p"], row["p (Holm)"]) for row in first] == [("0.002", "0.0039")]  # 2 / 2 ** 10
    assert [row["p (Holm)"] for rows in later for row in rows] == ["0.0078", "0.0078"]


# ---- 6: the baseline -------------------------------------------------------------------------------------------------


def test_the_baseline_is_the_one_of_the_file(tmp_path):
    path = study_of(
        tmp_path, lambda run: {"eval/return": flat(len(run.arm) + run.seed)}, arms=("a", "bb", "ccc"), baseline="bb"
    )
    text = report_of(path, tmp_path / "out")
    assert [row["comparison"] for row in tables(text, "Comparisons")[0]] == ["a", "ccc"]
    assert tables(text, "walk")[1][0] == {
        "minus bb": "a",
        "area under curve": "-1.00 [none]",
        "final return": "-1.00 [none]",
    }


def test_a_task_without_the_baseline_is_left_out_and_said(tmp_path):
    """Before, the next arm took its place."""

    def curves(run: StudyRun) -> Curves | None:
        gone = run.arm == "plain" and run.task == "run"
        return None if gone else {"eval/return": flat(run.seed + 10.0 * (run.arm == "new") + 50 * (run.arm == "newer"))}

    path = study_of(tmp_path, curves, tasks=("walk", "run"), arms=("plain", "new", "newer"))
    text = report_of(path, tmp_path / "out")
    assert "The baseline plain has no finished run on run: nothing is compared there." in text
    rows = tables(text, "Comparisons")[0]
    assert [(row["comparison"], row["pairs"], row["difference"]) for row in rows] == [
        ("new", "5 (not on run)", "+10.0 [none]"),
        ("newer", "5 (not on run)", "+50.0 [none]"),
    ]
    assert len(tables(text, "run")) == 1, "no differences"
    assert "P(better)" not in tables(text, "run")[0][0]


def test_a_study_of_one_arm_compares_nothing(tmp_path):
    path = study_of(tmp_path, lambda run: {"eval/return": flat(run.seed)}, arms=("only",))
    text = report_of(path, tmp_path / "out")
    assert "## Comparisons" not in text
    assert [len(rows) for rows in tables(text, "walk")] == [1]


# ---- 7: differences of everything, and endpoints ---------------------------------------------------------------------


def test_every_measure_has_its_difference_from_the_baseline(tmp_path):
    def curves(run: StudyRun) -> Curves:
        new = run.arm == "new"
        noise = 0.01 * (run.seed % 2)
        return {
            "eval/return": flat(10.0 * run.seed),
            "fau/critic": flat(0.3 + 0.1 * new + noise * new),
            "srank/critic": flat(5.0 + 2 * new + noise * new),
        }

    path = study_of(tmp_path, curves, measures=["srank/critic"])
    _, (row,) = tables(report_of(path, tmp_path / "out"), "walk")
    assert set(row) == {"minus plain", "area under curve", "final return", "FAU critic", "srank/critic"}
    # 0.11, 0.10, 0.11, 0.10, 0.11: mean 0.106, deviation 0.00548, over sqrt(5) times 2.776: 0.0068
    assert ends(row["FAU critic"]) == (0.106, 0.099, 0.113)
    assert row["srank/critic"].startswith("+2.01 [+")


def test_endpoints_are_those_of_the_file(tmp_path):
    """From 0 at frame 0 to the seed at frame 100; in the last third it is flat."""

    def curves(run: StudyRun) -> Curves:
        high = run.seed + 10.0 * (run.arm == "new")
        return {"eval/return": {0: 0.0, 50: high, 70: high, 100: high}, "fau/critic": {0: 0.1 * run.seed, 100: 0.0}}

    path = study_of(
        tmp_path,
        curves,
        primary={"tag": "eval/return", "of": "last_third"},
        secondary=[{"tag": "fau/critic", "at": 25}, {"tag": "eval/return", "of": "area"}],
    )
    text = report_of(path, tmp_path / "out")
    assert "in the primary endpoint, eval/return, last third (2 points of each run's curve):" in text
    assert "Secondary endpoint: fau/critic at frame 25." in text
    first, at, area = tables(text, "Comparisons")
    assert first[0]["difference"] == "+10.0 [none]"
    assert at[0]["difference"] == "+0.000 [none]"
    assert area[0]["difference"] == "+7.5 [none]"  # 10 * (25 + 50) / 100
    assert "verdict" not in area[0]
    plain, _ = tables(text, "walk")[0]
    assert plain["fau/critic at frame 25"].startswith("0.225 ")  # three quarters of 0.3, the middle seed


def test_an_endpoint_that_no_run_has_is_said(tmp_path):
    path = study_of(tmp_path, lambda run: {"eval/return": flat(1.0)}, primary={"tag": "eval/retrun"})
    text = report_of(path, tmp_path / "out")
    assert "primary: no finished run has a curve eval/retrun. Did you mean eval/return?" in text
    assert tables(text, "Comparisons")[0] == []
    assert tables(text, "walk")[0][0]["IQM"] == "1.00 [none]"
