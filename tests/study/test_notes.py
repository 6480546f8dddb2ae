"""What a report says of its own gaps: values that are missing, arms without pairs, names without a curve."""

from __future__ import annotations

import math
import sys

import pytest
import yaml
from made_studies import Curves, flat, report_of, study_of, tables

from plasticity_rl.results.runs import read_run
from plasticity_rl.study.scores import score_of
from plasticity_rl.study.spec import read_study
from plasticity_rl.study.study_run import StudyRun


@pytest.fixture(autouse=True)
def without_figures(monkeypatch):
    """They take most of the time."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)


# ---- how many values a number is of ----------------------------------------------------------------------------------


def test_a_cell_of_fewer_values_than_runs_says_so(tmp_path):
    """Two of the three runs of `new` have a finite FAU: of the cells that use it, and of no other."""

    def curves(run: StudyRun) -> Curves:
        fau = math.nan if (run.arm, run.seed) == ("new", 2) else 0.5 + 0.01 * run.seed
        return {"eval/return": flat(10.0 * run.seed**2), "fau/critic": {50: fau, 100: 0.5 + 0.01 * run.seed}}

    text = report_of(study_of(tmp_path, curves, seeds=3), tmp_path / "out")
    (plain, new), (difference,) = tables(text, "walk")
    assert new["seeds"] == plain["seeds"] == "3"
    assert new["FAU critic"].endswith("n=2")
    assert not any("n=" in cell for name, cell in {**new, **plain}.items() if name != "FAU critic")
    assert "n=" not in plain["FAU critic"]
    assert difference["FAU critic"].endswith("n=2")
    assert "n=" not in difference["final return"]
    assert "n=2: a cell of that many seeds" in text
    tex = (tmp_path / "out" / "report.tex").read_text()
    assert "]}$ ($n=2$)" in tex


def test_over_several_tasks_every_task_has_its_number(tmp_path):
    def curves(run: StudyRun) -> Curves:
        lost = (run.arm, run.task, run.seed) == ("new", "run", 1)
        return {"eval/return": flat(math.nan if lost else 10.0 * run.seed**2)}

    text = report_of(study_of(tmp_path, curves, tasks=("walk", "run"), seeds=3), tmp_path / "out")
    (plain, new), _ = tables(text, "all tasks")
    assert new["IQM"].endswith("n=3+2")
    assert "n=" not in plain["IQM"]


# ---- where runs come from --------------------------------------------------------------------------------------------


def test_pairs_that_were_trained_by_different_code_are_named(tmp_path):
    """Two of three; where a run does not say what trained it nothing is said."""
    path = study_of(tmp_path, lambda run: {"eval/return": flat(10.0 * run.seed**2)}, seeds=4)
    newer = {("new", 1), ("new", 2), ("plain", 3), ("new", 3)}
    for run in read_study(path).runs():
        revision = ("b" if (run.arm, run.seed) in newer else "a") * 40
        if run.seed < 4 or run.arm == "plain":
            (run.folder / "starts.yaml").write_text(yaml.safe_dump([{"git_revision": revision}]))
    text = report_of(path, tmp_path / "out")
    assert "than the run of plain with the same seed: new (2 runs)." in text
    for run in read_study(path).runs():
        start = {"git_revision": "unknown"} if run.arm == "new" else {"git_revision": "c" * 40}
        (run.folder / "starts.yaml").write_text(yaml.safe_dump([{**start, "python": "3.11.7"}]))
    assert "with the same seed:" not in report_of(path, tmp_path / "again")


# ---- how many points an endpoint averages ----------------------------------------------------------------------------


def test_the_number_of_evaluations_that_an_endpoint_averages(tmp_path):
    """Of frames 0, 50, 70, 90 and 100 the last three lie in the last third."""

    def curves(run: StudyRun) -> Curves:
        return {"eval/return": dict.fromkeys((0, 50, 70, 90, 100), 1.0 * run.seed)}

    last_third = {"tag": "eval/return", "of": "last_third"}
    text = report_of(study_of(tmp_path, curves, primary=last_third), tmp_path / "out")
    assert "eval/return, last third (3 points of each run's curve)" in text
    assert "the final return: eval/return, mean of the points in the last tenth of the frames, 2 of each run." in text
    assert "single" not in text


def test_a_last_third_of_a_single_evaluation_is_said(tmp_path):
    def curves(run: StudyRun) -> Curves:
        return {"eval/return": {0: 0.0, 50: 2.0, 100: 1.0 * run.seed}}

    last_third = {"tag": "eval/return", "of": "last_third"}
    text = report_of(study_of(tmp_path, curves, primary=last_third), tmp_path / "out")
    assert (
        "**The primary endpoint, eval/return, last third, is no average: 1 point of each run's curve. Evaluate more "
        "often, or choose an area.**" in text
    )


# ---- arms without pairs ----------------------------------------------------------------------------------------------


def test_an_arm_without_a_common_seed_is_not_compared_and_named(tmp_path):
    """Baseline with seeds 1 and 2, `new` with 3, 4 and 5, `late` with all."""
    seeds = {"plain": (1, 2), "new": (3, 4, 5), "late": (1, 2, 3, 4, 5)}

    def curves(run: StudyRun) -> Curves | None:
        return {"eval/return": flat(10.0 * run.seed**2)} if run.seed in seeds[run.arm] else None

    text = report_of(study_of(tmp_path, curves, arms=tuple(seeds)), tmp_path / "out")
    assert (
        "new has no seed in common with the baseline plain in area under eval/return: they are not compared, since "
        "runs are compared in pairs." in text
    )
    assert [row["comparison"] for row in tables(text, "Comparisons")[0]] == ["late"]
    assert "late has no seed" not in text
    assert tables(text, "walk")[0][1]["P(better)"] != "", "which needs no pairs"


def test_a_task_without_a_common_seed_is_named(tmp_path):
    def curves(run: StudyRun) -> Curves | None:
        first = run.seed < 3
        gone = run.task == "run" and first != (run.arm == "plain")
        return None if gone else {"eval/return": flat(10.0 * run.seed)}

    text = report_of(study_of(tmp_path, curves, tasks=("walk", "run"), seeds=4), tmp_path / "out")
    assert "new has no seed in common with the baseline plain on run in area under eval/return: they are not" in text
    assert tables(text, "Comparisons")[0][0]["pairs"] == "4 (not on run)"


def test_arms_that_are_missing_altogether_are_said_once(tmp_path):
    def curves(run: StudyRun) -> Curves | None:
        return None if run.arm == "plain" else {"eval/return": flat(10.0 * run.seed)}

    text = report_of(study_of(tmp_path, curves, arms=("plain", "new", "newer")), tmp_path / "out")
    assert "The baseline plain has no finished run: nothing is compared." in text
    assert "in common" not in text


# ---- runs that are longer than the study -----------------------------------------------------------------------------


def was_trained(run: StudyRun, to: int, ended_at: int | None = None) -> None:
    """Let a run have been one of ``to`` frames, whose last step may have passed them."""
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    (run.folder / "config.yaml").write_text(yaml.safe_dump({**config, "max_frames": to}))
    (run.folder / "finished.yaml").write_text(f"env_frames: {to if ended_at is None else ended_at}\n")


def test_a_longer_run_is_read_to_the_length_of_the_study(tmp_path):
    """Finished with 100 frames of 1 each; `new` was then resumed to 200 frames, in which it earned 1000."""

    def curves(run: StudyRun) -> Curves:
        more = {150: 1000.0, 200: 1000.0} if run.arm == "new" else {}
        return {"eval/return": {0: 1.0, 100: 1.0, **more}, "fau/critic": {100: 0.5, **dict.fromkeys(more, 0.0)}}

    study = study_of(tmp_path, curves)
    for run in read_study(study).runs():
        was_trained(run, to=200 if run.arm == "new" else 100)
    text = report_of(study, tmp_path / "out")
    for row in tables(text, "walk")[0]:
        assert {row["IQM"], row["area under curve"], row["FAU critic"]} == {"1.00 [none]", "0.500 [none]"}
    assert "Longer than the study, read up to frame 100: walk/new/seed1, walk/new/seed2," in text


def test_a_longer_run_on_the_same_line_has_the_same_numbers(tmp_path):
    """Evaluated at 60, 80 and so on, in a study of 100 frames, where others have their last evaluation."""

    def curves(run: StudyRun) -> Curves:
        frames = (0, 60, 80, 120) if run.arm == "new" else (0, 60, 80, 100)
        return {"eval/return": {frame: 10.0 * run.seed + frame for frame in frames}}

    study = study_of(tmp_path, curves)
    for run in read_study(study).runs():
        was_trained(run, to=120 if run.arm == "new" else 100)
    text = report_of(study, tmp_path / "out")
    old, new = tables(text, "walk")[0]
    assert (old["IQM"], old["area under curve"]) == (new["IQM"], new["area under curve"])
    assert "only:" not in text


def test_of_a_longer_run_only_evaluations_have_a_point_at_the_end_of_the_study(tmp_path):
    """100 frames, between evaluations at 80 and 120: of task a (both have it), of b (a visit later), and a probe."""
    every = {0: 0.0, 60: 6.0, 80: 8.0, 120: 12.0, 160: 16.0}
    of_b = {60: 6.0, 160: 16.0}
    curves = {"eval/return": every, "eval/a/return": {80: 8.0, 120: 12.0}, "eval/b/return": of_b, "fau/critic": every}
    study = read_study(study_of(tmp_path, lambda run: curves))
    for run in study.runs():
        was_trained(run, to=160)
    run = study.runs()[0]
    score = score_of(run, read_run(run.folder), study)
    ends = {tag: (int(one.frames[-1]), float(one.values[-1])) for tag, one in score.curves.items()}
    # At 100 the line from (80, 8) to (120, 12) is at 10.
    at_end = {"eval/return": (100, 10.0), "eval/a/return": (100, 10.0)}
    assert ends == {**at_end, "eval/b/return": (60, 6.0), "fau/critic": (80, 8.0)}


def test_a_run_whose_evaluations_span_other_frames_is_named(tmp_path):
    def curves(run: StudyRun) -> Curves:
        return {"eval/return": {(50 if run.name == "walk/new/seed1" else 0): 1.0, 100: 3.0}}

    text = report_of(study_of(tmp_path, curves), tmp_path / "out")
    assert "eval/return has frames 50 to 100 only: walk/new/seed1. Areas are over these." in text


def test_the_last_step_of_a_run_of_the_study_s_length_may_pass_it(tmp_path):
    """100 frames in steps of 8 are 104."""
    study = study_of(tmp_path, lambda run: {"eval/return": {0: 1.0, 104: 5.0}})
    for run in read_study(study).runs():
        was_trained(run, to=100, ended_at=104)
    text = report_of(study, tmp_path / "out")
    assert tables(text, "walk")[0][0]["IQM"] == "5.00 [none]"
    assert "Longer than" not in text


# ---- runs that were cut short ----------------------------------------------------------------------------------------


def cut_at(frame: int, points: dict[int, float]) -> dict[int, float]:
    return {at: value for at, value in points.items() if at <= frame}


def test_a_run_whose_curves_end_early_is_in_no_row_of_its_end_nor_of_all_frames(tmp_path):
    """All returns are the frame: 95 in the last tenth, 50 over all frames; cut at frame 40 they would be 40 and 20."""
    every = {frame: float(frame) for frame in range(0, 101, 10)}

    def curves(run: StudyRun) -> Curves:
        end = 40 if run.name == "walk/new/seed1" else 100
        final = {"final/return": {50: 7.0, **({100: 9.0} if end == 100 else {})}}  # it was made longer once
        return {**{tag: cut_at(end, every) for tag in ("eval/return", "fau/critic", "train/return")}, **final}

    final, after = {"tag": "eval/return", "of": "final"}, {"tag": "final/return"}
    path = study_of(tmp_path, curves, primary=final, secondary=[after, {"tag": "fau/critic", "of": "last_third"}])
    text = report_of(path, tmp_path / "out")
    (plain, new), _ = tables(text, "walk")
    assert new.pop("P(better)").endswith(" n=4")
    for name in set(new) - {"arm", "seeds"}:
        assert new[name] == f"{plain[name]} n=4", name
    assert [row["pairs"] for rows in tables(text, "Comparisons") for row in rows] == ["4"] * 3
    for tag, end in (("eval/return", 40), ("fau/critic", 40), ("final/return", 50)):
        assert text.count(f"**Left out of its rows: walk/new/seed1: {tag} ends at frame {end} of 100.**") == 1
    assert "Areas are over these" not in text


def test_a_curve_that_ends_early_in_a_whole_run_counts(tmp_path):
    """Of a task whose last visit is over: 3 at the end of it."""
    curves = {"eval/return": flat(1.0), "eval/a/return": {0: 0.0, 30: 2.0, 33: 4.0}}
    text = report_of(study_of(tmp_path, lambda run: curves, measures=["eval/a/return"]), tmp_path / "out")
    assert [row["eval/a/return"] for row in tables(text, "walk")[0]] == ["3.00 [none]"] * 2
    assert "Left out" not in text


def test_damage_that_leaves_a_run_in_its_rows_is_said_as_that(tmp_path):
    """Half a record behind the last point; of the file that is empty nothing counts."""
    path = study_of(tmp_path, lambda run: {"eval/return": flat(10.0 * run.seed)})
    half, empty = [run for run in read_study(path).runs() if run.arm == "plain"][:2]
    with next(half.folder.glob("events*")).open("ab") as events:
        events.write(b"half a record")
    next(empty.folder.glob("events*")).write_bytes(b"")
    text = report_of(path, tmp_path / "out")
    assert f"**Not read in full, what could be read counts: {half.name}: {half.folder}" in text
    assert f"**Left out of its rows: {empty.name}: {empty.folder}" in text
    assert text.count("Left out of its rows") == 2, "and once for the curve that it has not"
    assert tables(text, "walk")[0][0]["IQM"].endswith("n=4")


# ---- names without a curve -------------------------------------------------------------------------------------------


def test_a_measure_that_no_run_has_is_named_with_the_nearest_curves(tmp_path):
    def curves(run: StudyRun) -> Curves:
        return {"eval/return": flat(1.0 * run.seed), "rank/srank/critic": flat(5.0)}

    path = study_of(tmp_path, curves, measures=["srank/critic"], secondary=[{"tag": "fau/critic"}])
    text = report_of(path, tmp_path / "out")
    assert "**measures: no finished run has a curve srank/critic. Did you mean rank/srank/critic?**" in text
    assert text.count("curve fau/critic") == 1, "and not once for each run"
    assert "**secondary: no finished run has a curve fau/critic" in text


def test_a_measure_that_some_runs_have_is_no_typo(tmp_path):
    def curves(run: StudyRun) -> Curves:
        return {"eval/return": flat(1.0 * run.seed), **({"pruned": flat(5.0)} if run.arm == "new" else {})}

    text = report_of(study_of(tmp_path, curves, measures=["pruned"]), tmp_path / "out")
    assert "no finished run has" not in text
    assert [row["pruned"] for row in tables(text, "walk")[0]] == ["", "5.00 [none]"]
