"""Grouping runs into arms, and bringing the curves of seeds together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from run_folders import entry, write_config, write_run

from plasticity_rl import UserError
from plasticity_rl.results.arms import Arm, aggregate, arms_of, in_bins
from plasticity_rl.results.runs import Curve, Event, read_run
from plasticity_rl.run.logger import run_logger
from plasticity_rl.scalars import log_text


def curve(points: dict[float, float]) -> Curve:
    return Curve(np.array(list(points), dtype=np.int64), np.array(list(points.values()), dtype=np.float64))


class Folders:
    """Writes runs, and gives them back as arms: ``label -> seeds``."""

    def __init__(self, tmp_path) -> None:
        self.tmp_path, self.runs = tmp_path, []

    def add(self, *callbacks, **config) -> Path:
        folder = self.tmp_path / str(len(self.runs))
        self.runs.append(read_run(write_run(folder, {"eval/return": {0: 1.0}}, callbacks=callbacks, **config)))
        return folder

    def labels(self) -> dict[str, list[int]]:
        return {f"{arm.task}: {arm.label}": [run.seed for run in arm.runs] for arm in arms_of(self.runs)}


@pytest.fixture
def folders(tmp_path) -> Folders:
    return Folders(tmp_path)


RESET = entry("callbacks.Reset", modules=["critic"], every_n_frames=100)
PROBE = entry("callbacks.FractionActiveUnits")


def test_runs_that_differ_in_the_seed_are_one_arm_whatever_watches_them(folders):
    folders.add(RESET, PROBE, seed=2)
    folders.add(RESET, seed=1)
    folders.add(PROBE, seed=1)
    assert folders.labels() == {"tiny: Reset": [1, 2], "tiny: no intervention": [1]}


def test_what_the_trainer_and_other_weights_change_is_another_arm(folders):
    """Not which weights: each seed may begin with its own. A config that is silent has the default."""
    folders.add(seed=1)
    folders.add(seed=2, trainer={"precision": 32})
    folders.add(seed=1, trainer={"precision": "bf16-mixed"})
    folders.add(seed=2, trainer={"precision": "bf16"})
    folders.add(seed=1, init_weights="one.ckpt")
    folders.add(seed=2, init_weights="two.ckpt")
    other = "precision=32-true, began_with_other_weights"
    assert folders.labels() == {
        f"tiny: no intervention ({other}=false)": [1, 2],
        "tiny: no intervention (precision=bf16-mixed, began_with_other_weights=false)": [1, 2],
        f"tiny: no intervention ({other}=true)": [1, 2],
    }


def goes_on(folder: Path, number: int, *callbacks, max_frames: int = 800, **options) -> None:
    """Note a later start, with other options by section."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["trainer"]["callbacks"] = list(callbacks)
    for section, changed in options.items():
        config[section] |= changed
    (folder / f"config_resumed_20260101-00000{number}.yaml").write_text(
        yaml.safe_dump({**config, "max_frames": max_frames})
    )


def test_a_run_that_went_on_with_other_options_is_another_arm(folders):
    """A longer run is the same arm, and so is one whose interventions a newer version knows more arguments of."""
    folders.add(seed=1)
    longer = folders.add(seed=2)
    goes_on(longer, 1, PROBE, data={"env_workers": 4, "young": 1})
    goes_on(longer, 2, PROBE, max_frames=1600)
    goes_on(folders.add(seed=1, lr=0.1), 1, RESET, model={"lr": 0.5})
    twice = folders.add(RESET, seed=1)
    goes_on(twice, 1, entry("callbacks.Reset", modules=["actor"], every_n_frames=100, new=None))
    goes_on(twice, 2)
    goes_on(folders.add(RESET, seed=2), 1, entry("callbacks.Reset", modules=["critic"], every_n_frames=100, new=3))
    assert folders.labels() == {
        "tiny: no intervention": [1, 2],
        "tiny: no intervention (lr=0.1, lr 0.5 from a later start, with Reset from a later start)": [1],
        "tiny: Reset (with Reset(modules=actor) then without Reset from a later start)": [1],
        "tiny: Reset": [2],
    }
    assert [run.max_frames for run in folders.runs] == [None, 1600, 800, 800, 800]
    (longer / "config_resumed_20260101-000009.yaml").write_text("[")
    assert read_run(longer).max_frames == 1600


def test_what_is_null_is_what_an_older_config_leaves_out(folders):
    folders.add(entry("callbacks.AnnealHorizon", first_n_step=None, num_updates=5), seed=1, clip=None)
    folders.add(entry("callbacks.AnnealHorizon", num_updates=5), seed=2)
    folders.add(entry("callbacks.AnnealHorizon", first_n_step=10, num_updates=5), seed=1)
    assert folders.labels() == {
        "tiny: AnnealHorizon(first_n_step=null)": [1, 2],
        "tiny: AnnealHorizon(first_n_step=10)": [1],
    }


def test_each_seed_may_start_from_what_its_own_one_left(folders):
    """As in a study, ``{folder}/{task}/failed/seed{seed}``; what another arm left is another arm."""
    for arm, seed in (("failed", 1), ("failed", 10), ("usual", 1), ("usual", 10)):
        folders.add(entry("callbacks.WarmStartReplay", path=f"runs/seed1_to_10/tiny/{arm}/seed{seed}"), seed=seed)
    assert folders.labels() == {
        f"tiny: WarmStartReplay(path=runs/seed1_to_10/tiny/{arm}/seed{{seed}})": [1, 10] for arm in ("failed", "usual")
    }


def test_the_order_in_the_config_does_not_matter(folders):
    other = entry("callbacks.L2Init", coefficient=0.1)
    folders.add(RESET, other, seed=1)
    folders.add(other, RESET, seed=2)
    assert folders.labels() == {"tiny: Reset + L2Init": [1, 2]}


def test_tasks_are_apart(folders):
    folders.add(task="one")
    folders.add(task="two")
    assert folders.labels() == {"one: no intervention": [1], "two: no intervention": [1]}


def test_arguments_are_named_where_they_tell_arms_apart(folders):
    folders.add(RESET)
    folders.add(entry("callbacks.Reset", modules=["actor", "critic"], every_n_frames=100))
    folders.add()
    assert set(folders.labels()) == {
        "tiny: Reset(modules=critic)",
        "tiny: Reset(modules=actor+critic)",
        "tiny: no intervention",
    }


def test_other_options_are_never_pooled(folders):
    """Runs at two replay ratios are two experiments, also under the same name."""
    folders.add(RESET, seed=1)
    folders.add(RESET, seed=2, replay_ratio=2.0)
    assert set(folders.labels()) == {"tiny: Reset (replay_ratio=0.5)", "tiny: Reset (replay_ratio=2)"}


def test_a_seed_cannot_count_twice(folders):
    folders.add(RESET)
    folders.add(RESET)
    with pytest.raises(UserError, match="one experiment with the same seed 1; leave one out"):
        folders.labels()


def test_events_of_seeds_are_joined(tmp_path):
    runs = [
        read_run(write_run(tmp_path / str(seed), {}, events, seed=seed))
        for seed, events in ((1, {10: "reset", 30: "reset"}), (2, {10: "reset", 20: "redo"}))
    ]
    found = [(event.frame, event.name) for event in Arm("tiny", "", runs).events()]
    assert found == [(10, "reset"), (20, "redo"), (30, "reset")]


def test_what_happened_at_one_frame_under_one_name_is_one_event_with_all_of_it(tmp_path):
    """Two resets of other modules: the second was not shown. What another seed says of the same event is no other."""
    for seed, said in ((1, ["reset actor", "reset critic", "reset actor"]), (2, ["reset actor of 3"])):
        logger = run_logger(write_config(tmp_path / str(seed), seed=seed))
        for words in said:
            log_text([logger], "intervention/reset", f"{words} at frame 104", 104)
        logger.finalize("success")
    (arm,) = arms_of([read_run(tmp_path / str(seed)) for seed in (1, 2)])
    assert arm.events() == [Event(104, "reset", "reset actor; reset critic at frame 104")]


def test_seeds_on_the_same_frames_need_no_interpolation():
    band = aggregate([curve({0: 0.0, 100: 10.0}), curve({0: 2.0, 100: 30.0})])
    assert band is not None
    assert band.frames.tolist() == [0, 100]
    assert band.iqm.tolist() == [1.0, 20.0]
    # Deviations sqrt(2) and 10 sqrt(2), over sqrt(2): 1 and 10, times the quantile of 1 degree of freedom, 12.7.
    assert band.low.tolist() == pytest.approx([1 - 12.7, 20 - 127.0], rel=0.05)
    assert band.high.tolist() == pytest.approx([1 + 12.7, 20 + 127.0], rel=0.05)
    assert band.num_runs == 2
    assert not band.is_drawn_as_band
    assert band.rows.tolist() == [[0.0, 10.0], [2.0, 30.0]]


def test_seeds_on_other_frames_are_interpolated_where_both_have_data():
    """From 20 (start of the second) to 100 (end of the first): frames 20, 60, 100."""
    band = aggregate([curve({0: 0.0, 100: 100.0}), curve({20: 0.0, 60: 40.0, 180: 400.0})])
    assert band is not None
    assert band.frames.tolist() == [20, 60, 100]
    # First: 20, 60, 100. Second: 0, 40, 40 + 360 / 3 = 160.
    assert band.iqm.tolist() == pytest.approx([10.0, 50.0, 130.0])


def test_a_long_curve_is_averaged_in_bins_and_a_short_one_is_not():
    long = curve({frame: float(frame % 2) for frame in range(1000)})
    band = aggregate([long], max_points=10)
    assert band is not None
    assert len(band.frames) == 10
    assert band.iqm == pytest.approx([0.5] * 10, abs=0.01)
    assert np.isnan([band.low, band.high]).all(), "one run has no interval"
    short = curve({0: 0.0, 500: 1.0, 999: 0.0})
    assert in_bins(short, np.linspace(0, 999, 11)) is short


def test_bins_by_hand():
    """Edges 0, 10, 20, 30: {0, 4}, {10}, nothing in the third but its upper edge 30."""
    points = curve({0: 1.0, 4: 3.0, 10: 5.0, 30: 9.0, 31: 100.0})
    binned = in_bins(points, np.array([0.0, 10.0, 20.0, 30.0]))
    assert binned.frames.tolist() == [2.0, 10.0, 30.0]
    assert binned.values.tolist() == [2.0, 5.0, 9.0]


def test_nothing_in_common_is_nothing():
    assert aggregate([]) is None
    assert aggregate([curve({})]) is None
    assert aggregate([curve({0: 1.0, 10: 1.0}), curve({20: 1.0, 30: 1.0})]) is None
    band = aggregate([curve({}), curve({5: 1.0})])
    assert band is not None
    assert (band.frames.tolist(), band.num_runs) == ([5.0], 1)
