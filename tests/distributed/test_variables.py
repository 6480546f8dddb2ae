"""What launchers leave in the environment: a run works with it, or says in one line what is wrong."""

from __future__ import annotations

import itertools
import os

import pytest
from cli_runs import call, printed_config
from helpers import TINY_TRAINER, fit_tiny
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from plasticity_rl import UserError, make_trainer
from plasticity_rl.distributed.variables import NUMBERS, OF_A_PROCESS, RANKS, refuse_bad_variables, without_ranks
from plasticity_rl.machine.rendering import OWN_EGL_DEVICE

LEFT_OVER = {
    "RANK": "1",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "2",
    "NODE_RANK": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "1",
    "SLURM_JOB_NAME": "interactive",
    "SLURM_NTASKS_PER_NODE": "4",
    "JSM_NAMESPACE_RANK": "2",
}
COMBINATIONS = [names for size in (1, 2, len(LEFT_OVER)) for names in itertools.combinations(LEFT_OVER, size)]


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for name in (*OF_A_PROCESS, "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(rank_zero_only, "rank", 0)


@pytest.mark.parametrize("names", COMBINATIONS, ids="-".join)
def test_a_trainer_with_one_process_is_the_first_rank(names, tmp_path, monkeypatch):
    """Lightning reads the rank when it is imported: what it would have found is put there."""
    for name in names:
        monkeypatch.setenv(name, LEFT_OVER[name])
    found = [int(os.environ[name]) for name in RANKS if name in os.environ]
    monkeypatch.setattr(rank_zero_only, "rank", (found or [0])[0])
    trainer = make_trainer(tmp_path, **{**TINY_TRAINER, "logger": None})
    assert (trainer.world_size, trainer.is_global_zero, rank_zero_only.rank) == (1, True, 0)
    assert isinstance(trainer.logger, TensorBoardLogger)


def test_a_run_beside_left_over_ranks_writes_everything(tmp_path, monkeypatch):
    """Lightning's logger would be a dummy without ``add_summary``: the agent sees to it, whatever the Trainer."""
    monkeypatch.setattr(rank_zero_only, "rank", 3)
    fit_tiny(tmp_path, trainer_options={"logger": True})
    assert list(tmp_path.rglob("events.*"))
    assert (tmp_path / "finished.yaml").exists()


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["abc", "", "-1", "1.5"])
def test_what_is_no_number_is_refused_by_name(name, value):
    with pytest.raises(UserError, match=f"^the environment variable {name}='{value}'.* unset {name}"):
        refuse_bad_variables({name: value})
    refuse_bad_variables({name: "0", "MASTER_ADDR": "anything"})


def test_the_command_line_refuses_it(monkeypatch):
    monkeypatch.setenv("RANK", "abc")
    result = call("fit", "--max_frames=10")
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    assert "RANK='abc'" in result.err


def test_a_rank_that_would_wait_alone_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(UserError, match=r"LOCAL_RANK=1 is set.*MASTER_PORT is not.*unset LOCAL_RANK"):
        make_trainer(tmp_path, devices=2, **TINY_TRAINER)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SLURM_NTASKS": "2"}, "ntasks"),
        ({"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "4"}, "trainer"),
    ],
)
def test_a_job_that_does_not_fit_is_one_line(variables, expected, tmp_path, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=expected):
        make_trainer(tmp_path, devices=2, **TINY_TRAINER).strategy.launcher.launch(lambda: None)


def test_runs_of_a_study_do_not_hear_which_process_started_them():
    kept = {"PATH": "x", "SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "0"}
    assert without_ranks({**kept, **dict.fromkeys(OF_A_PROCESS, "1")}) == kept
    own = {"MUJOCO_EGL_DEVICE_ID": "1", OWN_EGL_DEVICE: "1"}
    assert without_ranks({**kept, **own}) == kept
    assert without_ranks({**kept, **own, "MUJOCO_EGL_DEVICE_ID": "2"}) == {**kept, "MUJOCO_EGL_DEVICE_ID": "2"}
    assert printed_config("--max_frames=4321")["max_frames"] == 4321
