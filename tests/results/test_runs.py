"""Reading run folders back, on folders whose curves are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cli_runs import events
from run_folders import entry, write_config, write_events, write_run

from plasticity_rl import UserError
from plasticity_rl.results.runs import Curve, as_curve, read_run


def test_a_run_is_read_back(tmp_path):
    folder = write_run(
        tmp_path, {"eval/return": {0: 1.5, 100: 2.5}, "fau/critic": {50: 0.5}}, {60: "reset", 80: "reset"}, seed=3
    )
    run = read_run(folder)
    assert (run.task, run.seed) == ("tiny", 3)
    assert run.curves["eval/return"].frames.tolist() == [0, 100]
    assert run.curves["eval/return"].values.tolist() == [1.5, 2.5]
    assert run.curves["fau/critic"].values.tolist() == [0.5]
    found = [(event.frame, event.name, event.text) for event in run.events]
    assert found == [(60, "reset", "reset at frame 60"), (80, "reset", "reset at frame 80")]


def test_of_a_longer_run_only_what_lies_before_the_end_counts():
    """And, where no point lies at the end, the line there; not one to a point that is not finite."""
    frames = np.array([0, 60, 120])
    ends = Curve(frames, np.array([0.0, 6.0, 12.0])).read_until(100)
    assert (ends.frames.tolist(), ends.values.tolist()) == ([0, 60, 100], [0.0, 6.0, 10.0])
    diverges = Curve(frames, np.array([0.0, 6.0, np.nan])).read_until(100)
    assert (diverges.frames.tolist(), diverges.is_finite) == ([0, 60], True)


def test_points_of_a_killed_run_give_way_to_those_of_its_continuation():
    """Checkpoint at 20, killed after 40, resumed: 30 and 40 are written twice, 45 was never reached again."""
    curve = as_curve([(10, 1.0), (20, 2.0), (30, 3.0), (45, 4.5), (30, 3.1), (40, 4.1)])
    assert curve.frames.tolist() == [10, 20, 30, 40]
    assert curve.values.tolist() == [1.0, 2.0, 3.1, 4.1]
    assert len(as_curve([]).frames) == 0


def test_a_resumed_run_is_read_from_all_its_event_files(tmp_path):
    write_run(tmp_path, {"eval/return": {0: 0.0, 100: 1.0, 200: 9.0}}, {50: "reset"})
    write_events(tmp_path, {"eval/return": {200: 2.0, 300: 3.0}}, {250: "reset"})
    run = read_run(tmp_path)
    assert run.curves["eval/return"].values.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert [event.frame for event in run.events] == [50, 250]


def test_what_lies_beyond_the_checkpoint_that_a_run_went_on_from_is_given_up(tmp_path):
    """Checkpoint at 80, killed behind 99; it went on with other evaluations and another schedule, to 96."""
    probe = {40: 0.1, 80: 0.2, 95: 0.9}
    write_run(tmp_path, {"eval/return": {40: 2.0, 80: 3.0, 90: 99.0}, "fau/critic": probe, "gone": {99: 1.0}})
    write_events(tmp_path, {}, {80: "reset", 90: "reset"})
    write_events(tmp_path, {"eval/return": {96: 4.0}}, {96: "reset"}, goes_on_from=80)
    run, theirs = read_run(tmp_path), events(tmp_path)
    assert dict(zip(run.curves["eval/return"].frames.tolist(), run.curves["eval/return"].values, strict=True)) == {
        40: 2.0,
        80: 3.0,
        96: 4.0,
    }
    assert run.curves["fau/critic"].frames.tolist() == [40, 80]
    assert "gone" not in run.curves
    assert [event.frame for event in run.events] == [80, 96]
    for tag, curve in run.curves.items():  # TensorBoard does the same
        assert curve.frames.tolist() == [point.step for point in theirs.Scalars(tag)]


def test_what_only_watches_is_no_intervention(tmp_path):
    callbacks = [
        entry("callbacks.FractionActiveUnits", every_n_updates=5),
        entry("callbacks.Reset", modules=["critic"]),
        entry("plasticity_rl.EvalVideo"),
        entry("lightning.pytorch.callbacks.Timer"),
        entry("somewhere.Else"),
        entry("callbacks.Unknown"),
    ]
    run = read_run(write_run(tmp_path, {"eval/return": {0: 1.0}}, callbacks=callbacks))
    assert run.interventions == [("Reset", {"modules": ["critic"]}), ("Else", {}), ("Unknown", {})]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "is not a run folder: it holds no config.yaml"),
        ("a: [", "is not the configuration of a run"),
        ("data: {}", "is not the configuration of a run"),
        ("- 1", "is not the configuration of a run"),
        ("{seed_everything: 1, data: {task: tiny}}", "holds no TensorBoard events"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path, content, expected):
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=expected):
        read_run(tmp_path)


def test_a_run_that_has_just_started_is_read(tmp_path):
    write_config(tmp_path)
    write_events(tmp_path, {})
    (tmp_path / "events.out.tfevents.1.host").touch()
    run = read_run(tmp_path)
    assert run.curves == {}
    assert run.events == []


# ---- files that are damaged ------------------------------------------------------------------------------------------

POINTS = {frame: float(frame) for frame in range(0, 1000, 10)}


@pytest.fixture
def file(tmp_path) -> Path:
    """The one event file of a run with 100 points."""
    write_run(tmp_path, {"eval/return": POINTS})
    (path,) = tmp_path.glob("events*")
    return path


def starts_of(content: bytes) -> list[int]:
    """Return where each record begins."""
    starts, start = [], 0
    while start < len(content):
        starts.append(start)
        start += 16 + int.from_bytes(content[start : start + 8], "little")
    return starts


@pytest.mark.parametrize("offset", [0, 3, 7, 9, 12, 20, -1, -4], ids=lambda offset: f"byte {offset}")
def test_one_flipped_byte_loses_one_point_and_is_named(offset, file, tmp_path):
    """In the length, its checksum, the data, and their checksum: the points behind it are read all the same."""
    content = bytearray(file.read_bytes())
    starts = starts_of(content)
    where = (starts[51] if offset < 0 else starts[50]) + offset
    content[where] ^= 0x55
    file.write_bytes(content)
    run = read_run(tmp_path)
    curve, (problem,) = run.curves["eval/return"], run.problems
    lost = set(POINTS) - set(curve.frames.tolist())
    assert len(lost) == 1
    size = starts[51] - starts[50]
    assert f"{file} is damaged in 1 place, first at byte {starts[50]:,}: the points in {size}" in problem


def test_what_is_cut_off_empty_or_garbage_is_named(file, tmp_path):
    content = file.read_bytes()
    file.write_bytes(content[:-5])
    run = read_run(tmp_path)
    assert len(run.curves["eval/return"].frames) == len(POINTS) - 1
    cut = len(content) - 5 - starts_of(content)[-1]
    assert f"{file}: {cut} bytes behind its last whole record cannot be read" in run.problems[0]

    (tmp_path / "events.out.tfevents.1.empty").touch()
    (tmp_path / "events.out.tfevents.2.garbage").write_bytes(b"\x07garbage" * 100)
    problems = sorted(read_run(tmp_path).problems)
    assert "1.empty is empty: its points are missing" in problems[0]
    assert "2.garbage is no event file: none of its 800 bytes can be read" in problems[2]
    for place in (range(64), range(len(content) - 64, len(content))):  # whatever it is, no traceback
        for where in place:
            damaged = bytearray(content)
            damaged[where] ^= 0xFF
            file.write_bytes(damaged)
            assert len(read_run(tmp_path).problems) == 3
    file.write_bytes(b"")
    with pytest.raises(UserError, match="no point can be read: .*1.empty is empty.*2.garbage is no event file"):
        read_run(tmp_path).refuse_unreadable()


def test_it_is_as_tensorboard_reads_it(file, tmp_path):
    write_events(tmp_path, {"fau/critic": {5: 0.1, 7: float("nan")}}, {5: "reset"})
    theirs = events(tmp_path)
    run = read_run(tmp_path)
    assert list(run.curves) == theirs.Tags()["scalars"]
    for tag, curve in run.curves.items():
        np.testing.assert_array_equal(curve.values, [point.value for point in theirs.Scalars(tag)])
    assert [event.text for event in run.events] == ["reset at frame 5"]
    assert run.problems == []


def test_a_config_without_end_is_refused(tmp_path):
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60)), "seed_everything: 1"]
    write_run(tmp_path, {"eval/return": {0: 0.0}})
    (tmp_path / "config.yaml").write_text("\n".join([*lines, "data: {task: tiny}", "model: {x: *a59}"]))
    with pytest.raises(UserError, match="is not the configuration of a run"):
        read_run(tmp_path)


@pytest.mark.parametrize("callbacks", ["evil.Evil", ["evil.Evil"], [{"init_args": {}}], 5])
def test_callbacks_that_no_run_wrote_are_refused(callbacks, tmp_path):
    write_run(tmp_path, {"eval/return": {0: 0.0}})
    config = {"seed_everything": 1, "data": {"task": "tiny"}, "trainer": {"callbacks": callbacks}}
    (tmp_path / "config.yaml").write_text(str(config).replace("'", '"'))
    with pytest.raises(UserError, match="is not the configuration of a run"):
        read_run(tmp_path)
