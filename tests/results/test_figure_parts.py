"""What stands behind a figure, without drawing: smoothing, tags and their units, labels, and runs below a folder."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from run_folders import entry, write_config, write_run

from plasticity_rl import UserError
from plasticity_rl.results.arms import arms_of
from plasticity_rl.results.charts import chart_of
from plasticity_rl.results.finding import find_runs
from plasticity_rl.results.labels import chosen_labels, short
from plasticity_rl.results.panels import Events
from plasticity_rl.results.runs import Curve, read_run
from plasticity_rl.results.smoothing import check_width, smoothed
from plasticity_rl.results.tags import matching_tags

RETURNS = {"eval/return": {0: 1.0, 100: 3.0}}


def curve(points: dict[int, float]) -> Curve:
    return Curve(np.array(list(points), dtype=np.int64), np.array(list(points.values()), dtype=np.float64))


# ---- smoothing -------------------------------------------------------------------------------------------------------


def test_smoothing_by_hand():
    """Width 200: at most 100 frames away. Of 0: 0 and 100. Of 100: 0, 100, 150. Of 150: 100, 150. 400 is alone."""
    found = smoothed(curve({0: 1.0, 100: 2.0, 150: 6.0, 400: 9.0}), 200)
    assert found.frames.tolist() == [0, 100, 150, 400]
    assert found.values.tolist() == pytest.approx([1.5, 3.0, 4.0, 9.0])
    nothing = curve({0: 1.0, 100: 2.0})
    assert smoothed(nothing, 0) is nothing
    assert smoothed(curve({}), 10).values.tolist() == []


def test_smoothing_keeps_constants_and_large_numbers():
    large = dict.fromkeys(range(0, 1000, 10), 1e9)
    np.testing.assert_array_equal(smoothed(curve(large), 300).values, list(large.values()))


def test_each_seed_is_smoothed_before_they_are_brought_together(tmp_path):
    heights = {1: (0.0, 9.0, 0.0), 2: (0.0, 0.0, 6.0)}
    runs = [
        read_run(
            write_run(tmp_path / f"{seed}", {"eval/return": dict(zip((0, 100, 200), own, strict=True))}, seed=seed)
        )
        for seed, own in heights.items()
    ]
    (line,) = chart_of(arms_of(runs), smooth_frames=200, tags=["eval/return"]).panels[0].lines
    assert line.band.rows.tolist() == [[4.5, 3.0, 4.5], [0.0, 2.0, 3.0]]
    assert line.band.iqm.tolist() == pytest.approx([2.25, 2.5, 3.75])
    assert line.seeds == (1, 2)


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (
            199,
            "--smooth 199: so few env frames change nothing: .* closest are 100 apart; here 200 to 1,000 are possible",
        ),
        (1001, "--smooth 1001: so many env frames make every curve flat: the longest spans 1,000; here 200 to 1,000"),
    ],
)
def test_a_width_that_shows_nothing_is_refused(width, expected):
    several = [curve({0: 0.0, 100: 1.0, 1000: 0.0}), curve({5: 1.0})]
    for allowed in (200, 1000):
        check_width(allowed, several)
    with pytest.raises(UserError, match=expected):
        check_width(width, several)


# ---- tags ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    tags = ("eval/return", "fau/actor", "fau/critic", "dormant/critic/tau_0.1", "dormant/actor/tau_0.1", "own")
    return read_run(write_run(tmp_path_factory.mktemp("run"), {tag: {0: 1.0, 100: 2.0} for tag in tags}))


def test_tags_and_patterns_are_found_once_in_their_order(run):
    assert matching_tags(["dormant/*", "fau/critic", "*/critic"], [run]) == [
        "dormant/critic/tau_0.1",
        "dormant/actor/tau_0.1",
        "fau/critic",
    ]
    assert matching_tags([], [run]) == []


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("fau/critc", "--tags fau/critc: no run has it; the nearest they have: fau/critic, fau/actor"),
        ("rank/actor", "the nearest they have: fau/actor"),
        ("dormant/*/tau_0.5", "the nearest they have: dormant/actor/tau_0.1, dormant/critic/tau_0.1"),
        ("###", "they have eval/[*], fau/[*], dormant/[*], own"),
    ],
)
def test_a_tag_that_no_run_has_is_refused_with_the_nearest(run, tag, expected):
    with pytest.raises(UserError, match=expected):
        matching_tags([tag], [run])


def test_more_panels_than_can_be_read_are_refused(tmp_path):
    many = read_run(write_run(tmp_path, {f"own/{number}": {0: 1.0} for number in range(25)}))
    with pytest.raises(UserError, match="25 tags .own/0, own/1, own/2, .... are more panels than the 24"):
        matching_tags(["own/*"], [many])


def test_a_chosen_tag_has_its_name_unit_and_range(run, tmp_path):
    other = read_run(write_run(tmp_path, {"eval/return": {0: 1.0}}, callbacks=[entry("callbacks.Reset")]))
    found = chart_of(arms_of([run, other]), tags=["dormant/critic/tau_0.1", "own"], title="")
    one, two = found.panels
    assert (one.title, one.unit, one.low, one.high) == ("dormant units, critic, tau 0.1", "share of units", 0.0, 1.0)
    assert (two.title, two.unit) == ("own", "")
    assert [line.label for line in one.lines] == ["no intervention"]
    assert found.notes == [
        "no run of Reset on tiny has dormant/critic/tau_0.1",
        "no run of Reset on tiny has own",
    ]
    assert found.title == ""


# ---- labels and events -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (2000, "2k"),
        (2008, "2008"),
        (1_500_000, "1.5M"),
        (500, "500"),
        (1e-05, "1e-05"),
        (2.0, "2"),
        (True, "true"),
        (None, "null"),
        (["actor", "critic"], "actor+critic"),
        ([], "none"),
        ("exact", "exact"),
    ],
)
def test_values_are_written_short(value, expected):
    assert short(value) == expected


def test_one_label_means_one_thing_on_all_tasks(tmp_path):
    """Reset of the critic on one task and of the actor on the other would else have one name and one colour."""
    runs = [
        read_run(
            write_run(tmp_path / module, RETURNS, task=task, callbacks=[entry("callbacks.Reset", modules=[module])])
        )
        for task, module in (("one", "actor"), ("two", "critic"))
    ]
    assert [arm.label for arm in arms_of(runs)] == ["Reset(modules=actor)", "Reset(modules=critic)"]


def test_labels_are_those_of_the_user_in_the_order_of_the_legend():
    assert chosen_labels(["a", "b"], ["x", "y"]) == {"a": "x", "b": "y"}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["x"], "--labels: 1 label for 2 arms, which are: 1. plain; 2. Reset"),
        (["x", "y", "z"], "--labels: 3 labels for 2 arms"),
        (["x", "x"], "--labels: 'x' is there 2 times; every arm needs a name of its own"),
        (["x", " "], "--labels: a label is empty"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, expected):
    with pytest.raises(UserError, match=expected):
        chosen_labels(["plain", "Reset"], labels)


def test_events_are_listed_or_counted():
    few = Events(1, 0, "tiny", "shrink_and_perturb", (1008, 2000), ("one at frame 1008", "two at frame 2000"))
    assert few.words == "shrink and perturb at 1,008, 2,000"
    assert replace(few, frames=(0, 10, 20, 30, 40, 55)).words == "shrink and perturb, 6 times, 0 to 55, every 10"
    assert replace(few, frames=(0, 1, 3, 6, 10, 15)).words == "shrink and perturb, 6 times, 0 to 15"
    alike = replace(few, texts=("reset actor, critic at frame 1008", "reset actor, critic at frame 2000"))
    assert alike.words == "reset actor, critic at 1,008, 2,000"


# ---- runs ------------------------------------------------------------------------------------------------------------


def test_a_folder_stands_for_the_runs_below_it(tmp_path):
    places = ["b/seed2", "a/deep/seed1", "seed3", "study_stale/20260101/seed4", ".hidden/seed5"]
    for number, place in enumerate(places):
        write_run(tmp_path / place, RETURNS, seed=number)
    write_run(tmp_path / "seed3" / "checkpoints", RETURNS, seed=9)  # a run holds none
    runs, notes = find_runs([tmp_path, tmp_path / "seed3"])
    assert [str(run.folder.relative_to(tmp_path)) for run in runs] == ["seed3", "a/deep/seed1", "b/seed2"]
    assert notes == []


def test_links_to_folders_are_followed_once_and_not_in_circles(tmp_path):
    """Runs that lie on another disk were left out without a word."""
    write_run(tmp_path / "disk" / "deep" / "one", RETURNS, seed=1)
    write_run(tmp_path / "runs" / "two", RETURNS, seed=2)
    write_run(tmp_path / "runs" / "z" / "three", RETURNS, seed=3)
    for link, target in (
        ("there", tmp_path / "disk"),
        ("a_link_to_three", tmp_path / "runs" / "z" / "three"),
        ("z/circle", tmp_path / "runs"),
        ("gone", tmp_path / "nowhere"),
    ):
        (tmp_path / "runs" / link).symlink_to(target, target_is_directory=True)
    (tmp_path / "disk" / "back").symlink_to(tmp_path / "disk", target_is_directory=True)
    runs, notes = find_runs([tmp_path / "runs"])
    assert [str(run.folder.relative_to(tmp_path / "runs")) for run in runs] == ["two", "z/three", "there/deep/one"]
    assert notes == []
    assert len(find_runs([tmp_path / "runs", tmp_path / "disk" / "deep" / "one"])[0]) == 3, "nor one that is named"


def test_what_cannot_be_read_below_a_folder_is_left_out_and_named(tmp_path):
    write_run(tmp_path / "good", RETURNS)
    write_config(tmp_path / "started")
    runs, notes = find_runs([tmp_path])
    assert len(runs) == 1
    assert len(notes) == 1
    assert notes[0].startswith(f"left out: {tmp_path / 'started'} holds no TensorBoard events")


def test_of_the_same_run_twice_below_a_folder_the_one_that_went_further_counts(tmp_path):
    write_run(tmp_path / "a", {"eval/return": {0: 1.0, 100: 3.0}})
    write_run(tmp_path / "b", {"eval/return": {0: 1.0}})
    runs, notes = find_runs([tmp_path])
    assert [run.folder.name for run in runs] == ["a"]
    assert notes == [f"left out: {tmp_path / 'b'} has the options and the seed of {tmp_path / 'a'} (frame 0 and 100)"]
    runs, _ = find_runs([tmp_path, tmp_path / "b"])
    assert [run.folder.name for run in runs] == ["b"], "what was named stays"


@pytest.mark.parametrize("broken", [False, True])
def test_a_folder_without_runs_is_refused(tmp_path, broken):
    if broken:
        write_config(tmp_path / "started")
    expected = "none of its 1 runs can be read, the first because" if broken else "is not a run folder and holds none"
    with pytest.raises(UserError, match=expected):
        find_runs([tmp_path])


def test_of_seeds_of_different_lengths_the_common_frames_are_drawn_and_it_is_said(tmp_path):
    ends = {1: 1000, 2: 400}
    runs = [
        read_run(write_run(tmp_path / f"{seed}", {"eval/return": {0: 0.0, 400: 1.0, end: 2.0}}, seed=seed))
        for seed, end in ends.items()
    ]
    found = chart_of(arms_of(runs))
    assert found.panels[0].lines[0].band.frames.tolist() == [0, 400]
    assert found.notes == [
        f"no intervention on tiny is drawn to frame 400, where {tmp_path / '2'} ends; its longest run goes on to 1,000"
    ]


def test_a_run_that_is_not_in_a_line_does_not_end_it(tmp_path):
    """Without FAU, or with returns that are not finite, a run was said to end the line, at frame 0 or its own last."""
    whole = {"eval/return": {0: 0.0, 100: 1.0}, "fau/critic": {0: 0.5, 100: 0.4}}
    write_run(tmp_path / "1", whole, seed=1)
    write_run(tmp_path / "2", {**whole, "fau/critic": {0: 0.5, 50: 0.4}}, seed=2)
    write_run(tmp_path / "3", {"eval/return": {0: 0.0, 10: math.nan}}, seed=3)
    write_run(tmp_path / "4", {"eval/return": {0: 0.0, 100: 1.0}}, seed=4)
    found = chart_of(arms_of([read_run(tmp_path / str(seed)) for seed in (1, 2, 3, 4)]))
    lines = [panel.lines[0] for panel in found.panels]
    assert [(line.seeds, line.band.frames.tolist()) for line in lines] == [((1, 2, 4), [0, 100]), ((1, 2), [0, 50])]
    assert found.notes == [
        f"{tmp_path / '3'}: eval/return is not finite at 1 point, first at frame 10; left out of its line",
        f"fau/critic of no intervention on tiny is drawn to frame 50, where {tmp_path / '2'} ends; its longest run "
        "goes on to 100",
        "seeds 3, 4 of no intervention on tiny have no fau/critic",
    ]
