"""Checkpoints without their replay, and several checkpoints with one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from cli_runs import TINY, call, checkpoint, fit_tiny_cli, tree
from helpers import fit_tiny
from lightning.pytorch.callbacks import ModelCheckpoint
from run_state import DieAt, Killed, differences, run_state

from plasticity_rl import UserError
from plasticity_rl.callback import RLCallback
from plasticity_rl.errors import RunFailure
from plasticity_rl.replay.files import RecordFiles
from plasticity_rl.replay.layout import RecordLayout


@pytest.fixture
def gone(tmp_path) -> Path:
    """A run of 100 frames, 30 of them with updates, whose replay folder was deleted."""
    run = tmp_path / "run"
    fit_tiny_cli(run, max_frames=100)
    shutil.rmtree(run / "replay")
    return run


def test_without_its_replay_a_run_is_not_resumed_but_evaluated_and_measured(gone):
    before = tree(gone)
    refused = call("fit", *TINY, "--max_frames=200", f"--trainer.default_root_dir={gone}", "--ckpt_path=last")
    assert refused.code == 2
    assert f"needs the replay data in {gone}/replay/rank0, which is not there" in refused.err
    assert "--data.allow_empty_replay true" in refused.err
    assert len(refused.err.strip().splitlines()) == 1
    last = gone / "checkpoints" / "last.ckpt"
    assert call("validate", f"--ckpt_path={last}").code == 0
    measured = call("probe", last, "--probes", "WeightNorm")
    assert measured.code == 0, measured.err
    assert "new rollouts" in measured.out
    after = tree(gone)
    assert {name: after[name] for name in before} == before


class Clocks(RLCallback):
    """Notes the frames of updates, and how many records there were."""

    def __init__(self) -> None:
        self.updates: list[int] = []
        self.records: list[int] = []

    def on_update_end(self, agent, batch, metrics) -> None:
        self.updates.append(agent.env_frames)
        self.records.append(len(agent.data.replay))


@pytest.mark.parametrize("storage", ["ram", "memmap"])
def test_when_told_to_it_goes_on_with_an_empty_one_after_a_new_seed_phase(storage, gone):
    """40 frames of collecting without updates, as at first, but with the policy; then one update per two env steps."""
    clocks, data = Clocks(), {"allow_empty_replay": True, "storage": storage}
    with pytest.warns(
        UserWarning, match=r"goes on with an empty one, and updates nothing before env frame 140; it will"
    ):
        agent = fit_tiny(gone, callbacks=[clocks], ckpt_path="last", max_frames=200, data_options=data)
    assert clocks.updates == list(range(144, 201, 4))
    # Frames 102 to 144 are 22 steps; an episode of 20 ends at frame 120, with one record more.
    assert clocks.records[0] == 23
    assert agent.data.replay.written.item() == 50 + 3
    # What follows is a run like any other, the new seed phase included: it resumes exactly.
    straight = run_state(fit_tiny(gone, ckpt_path="last", max_frames=260))
    assert straight["attributes"]["updates_from_frame"] == 140


@pytest.mark.slow
def test_it_resumes_inside_the_new_seed_phase(gone, tmp_path):
    data = {"allow_empty_replay": True, "eval_every_n_frames": 20}
    shutil.copytree(gone, tmp_path / "other")
    with pytest.warns(UserWarning, match="env frame 140"):
        straight = fit_tiny(gone, ckpt_path="last", max_frames=200, data_options=data)
    with pytest.warns(UserWarning, match="env frame 140"), pytest.raises(Killed):
        fit_tiny(tmp_path / "other", callbacks=[DieAt(130)], ckpt_path="last", max_frames=200, data_options=data)
    assert checkpoint(tmp_path / "other")["rl"]["env_frames"] == 120
    resumed = fit_tiny(tmp_path / "other", ckpt_path="last", max_frames=200, data_options=data)
    assert differences(run_state(straight), run_state(resumed)) == []


# ---- several checkpoints ---------------------------------------------------------------------------------------------


def keep(number: int) -> ModelCheckpoint:
    """Lightning's way to keep the newest checkpoints."""
    return ModelCheckpoint(
        filename="{env_frames:.0f}",
        monitor="env_frames",
        mode="max",
        save_top_k=number,
        auto_insert_metric_name=False,
        save_on_train_epoch_end=True,
    )


def names(run: Path) -> list[str]:
    return sorted(path.stem for path in (run / "checkpoints").glob("*.ckpt"))


@pytest.mark.parametrize("storage", ["ram", "memmap"])
def test_each_of_the_last_checkpoints_goes_on_exactly(storage, tmp_path):
    """The replay is never full: all of its records are still there, of the oldest checkpoint too."""
    data = {"eval_every_n_frames": 20, "storage": storage}
    straight = fit_tiny(tmp_path / "run", callbacks=[keep(3)], max_frames=140, data_options=data)
    assert names(tmp_path / "run") == ["100", "120", "140", "last"]
    for frames in (100, 120) if storage == "ram" else (100,):
        copy = shutil.copytree(tmp_path / "run", tmp_path / f"from{frames}")
        path = copy / "checkpoints" / f"{frames}.ckpt"
        resumed = fit_tiny(copy, callbacks=[keep(3)], ckpt_path=str(path), max_frames=140, data_options=data)
        one, two = run_state(straight), run_state(resumed)
        assert differences(one, two) == []


@pytest.mark.parametrize(("written", "oldest", "last_safe"), [(10, 0, 40), (30, 0, 40), (35, 5, 45), (10, 10, 50)])
def test_a_checkpoint_is_refused_once_the_ring_has_overwritten_what_it_needs(written, oldest, last_safe, tmp_path):
    """40 slots: record n + 40 takes the place of record n, so that ``oldest`` + 40 records can be written."""
    layout = RecordLayout((2,), 1, num_lanes=1, lane_length=30, slack=10, observation="state")
    RecordFiles(tmp_path, layout).create("run")
    needs = ("run", 0, torch.tensor([written]), torch.tensor([oldest]))
    for high_water in (last_safe, last_safe + 1):
        files = RecordFiles(tmp_path, layout)
        files.open("run", 0, torch.tensor([0]), torch.tensor([high_water]))
        files.raise_high_water(torch.tensor([high_water]))
        if high_water == last_safe:
            assert RecordFiles(tmp_path, layout).open(*needs) is not None
        else:
            with pytest.raises(UserError, match=r"overwrote data that the checkpoint needs.*resumable_epochs=..."):
                RecordFiles(tmp_path, layout).open(*needs)


def test_the_last_checkpoint_follows_evaluations_in_the_seed_phase_too(tmp_path):
    """Lightning's own callback saves nothing before an optimizer has stepped."""
    fit_tiny(tmp_path, max_frames=20, data_options={"eval_every_n_frames": 20})
    assert checkpoint(tmp_path)["rl"]["env_frames"] == 20


class Meddle(RLCallback):
    """Deletes the replay, or cuts one of its files short, at frame 130."""

    def __init__(self, how: str) -> None:
        self.how = how

    def on_env_step(self, agent, step) -> None:
        if agent.env_frames == 130:
            folder = agent.data.replay_folder
            if self.how == "deleted":
                shutil.rmtree(folder)
            else:
                os.truncate(folder / "records" / "pixels.memmap", 0)


@pytest.mark.parametrize(
    ("storage", "how"), [("ram", "deleted"), ("ram", "short"), ("memmap", "deleted"), ("memmap", "short")]
)
def test_a_replay_that_is_touched_in_mid_run_is_a_line_that_does_not_call_it_whole(storage, how, tmp_path):
    """Through memory, a file that was cut short would kill the process."""
    with pytest.raises(RunFailure, match=r"was deleted, moved or changed while the run was using it") as failure:
        fit_tiny(tmp_path, callbacks=[Meddle(how)], data_options={"storage": storage})
    assert "whole" not in str(failure.value)
    assert "RLDataModule(allow_empty_replay=True)" in str(failure.value)
    assert checkpoint(tmp_path)["rl"]["env_frames"] == 100
