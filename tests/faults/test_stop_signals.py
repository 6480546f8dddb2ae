"""A signal asks a run to stop: it ends with a checkpoint of a whole state, and goes on exactly."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import torch
from cli_runs import REPOSITORY, TINY, call, fit_tiny_cli, write_yaml
from helpers import fit_tiny
from lightning.pytorch.plugins.environments import SLURMEnvironment
from run_state import callback_states, differences, run_state

from callbacks import FractionActiveUnits, HeavyPriming, Reset
from plasticity_rl import make_trainer
from plasticity_rl.callback import RLCallback
from plasticity_rl.run.folder import requeued_checkpoint
from plasticity_rl.run.stop_signals import StopRun

RUN = {"max_frames": 150, "data_options": {"eval_every_n_frames": 60, "capacity": 50, "num_eval_episodes": 2}}
RUN["data_options"]["final_eval_episodes"] = 2
"""Updates from frame 40 on; evaluations of two episodes at 60, 120 and 150, and two at the end; the ring goes round."""


class Signal(RLCallback):
    """Sends this process a signal, once.

    Args:
        signum: The signal.
        when: ``update`` (in the middle of one), ``step``, ``evaluation`` (inside its first episode), ``start`` (before
            any step), ``save`` or ``end``.
        frame: Env frame from which on.
    """

    def __init__(self, signum: int, when: str, frame: int) -> None:
        self.signum, self.when, self.frame, self.sent = signum, when, frame, False

    def _send(self, agent, when: str) -> None:
        if when == self.when and agent.env_frames >= self.frame and not self.sent:
            self.sent = True
            os.kill(os.getpid(), self.signum)

    def on_update_end(self, agent, batch, metrics) -> None:
        self._send(agent, "update")

    def on_env_step(self, agent, step) -> None:
        self._send(agent, "step")

    def on_validation_batch_end(self, trainer, pl_module, *args) -> None:
        self._send(pl_module, "evaluation")

    def on_train_start(self, trainer, pl_module) -> None:
        self._send(pl_module, "start")

    def on_save_checkpoint(self, trainer, pl_module, checkpoint) -> None:
        self._send(pl_module, "save")

    def on_fit_end(self, trainer, pl_module) -> None:
        self._send(pl_module, "end")


@pytest.fixture
def hangup_stops():
    """As in a shell: under ``nohup``, which these tests may run under as well, SIGHUP is ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    assert signal.signal(signal.SIGHUP, before) == signal.SIG_DFL


def watched() -> list[RLCallback]:
    return [FractionActiveUnits(every_n_updates=3), Reset(modules=["critic.Q1"], every_n_frames=50)]


def fit(folder: Path, *extra: RLCallback, **options):
    given = watched()
    agent = fit_tiny(folder, callbacks=[*given, *extra], **{**RUN, **options})
    ends = {"evaluations": agent.eval_returns, "final": agent.latest.get("final/return"), "finished": finished(folder)}
    return {**run_state(agent), **ends}, callback_states(given)


def finished(folder: Path) -> bool:
    return (folder / "finished.yaml").is_file()


def saved_frames(path: Path) -> int:
    return torch.load(path, weights_only=True)["rl"]["env_frames"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("straight"))


@pytest.mark.parametrize(
    ("signum", "when", "frame", "saved"),
    [
        pytest.param(signal.SIGTERM, "start", 0, 2, id="before the first step"),
        pytest.param(signal.SIGINT, "save", 0, 2, id="in the first checkpoint"),
        pytest.param(signal.SIGINT, "step", 20, 20, id="seed phase"),
        pytest.param(signal.SIGTERM, "update", 90, 92, id="in an update"),
        pytest.param(signal.SIGINT, "step", 118, 118, id="last step but one of an epoch", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "step", 120, 120, id="last step of an epoch"),
        pytest.param(signal.SIGHUP, "update", 90, 92, id="closed terminal"),
        pytest.param(signal.SIGTERM, "evaluation", 120, 120, id="in an evaluation"),
        pytest.param(signal.SIGTERM, "evaluation", 150, 150, id="in the last evaluation"),
        pytest.param(signal.SIGINT, "step", 150, 150, id="last step of the run"),
        pytest.param(signal.SIGINT, "step", 122, 122, id="first step after a checkpoint", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_asked_to_stop_goes_on_exactly(
    signum, when, frame, saved, straight, tmp_path, capfd, hangup_stops
):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(StopRun) as stop:
        fit(tmp_path, Signal(signum, when, frame))
    assert stop.value.code == 128 + signum
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    out = capfd.readouterr().out
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert saved_frames(last) == saved
    name = signal.Signals(signum).name
    go_on = "go on with fit(..., ckpt_path='last')"
    line = f"Stopped by {name} at env frame {saved}; the last checkpoint is {last}: {go_on}"
    assert line in out.splitlines()

    resumed = fit(tmp_path, ckpt_path="last")
    found = differences(straight[0], resumed[0])
    if saved == RUN["max_frames"]:  # without a tick since, which would set these
        set_by_a_tick = ("val_loop.batch_progress", "/decided_at", "/tick_from", "/next_tick")
        found = [line for line in found if not any(name in line for name in set_by_a_tick)]
    assert found == []
    assert differences(straight[1], resumed[1]) == []
    assert resumed[0]["finished"]


def test_a_run_that_is_stopped_twice_in_its_last_evaluation_knows_its_last_epoch(straight, tmp_path):
    for again in ({}, {"ckpt_path": "last"}):
        with pytest.raises(StopRun):
            fit(tmp_path, Signal(signal.SIGTERM, "evaluation", 150), **again)
    resumed = fit(tmp_path, ckpt_path="last")
    found = differences(straight[0], resumed[0])
    assert not [line for line in found if "epoch_loop.batch_progress" in line]


def test_a_run_that_is_stopped_in_its_last_evaluation_can_be_made_longer(tmp_path):
    """It goes on as one that was finished, with evaluations at the same frames."""
    with pytest.raises(StopRun):
        fit(tmp_path / "stopped", Signal(signal.SIGTERM, "evaluation", 150))
    fit(tmp_path / "finished")
    longer = [fit(tmp_path / name, max_frames=240, ckpt_path="last")[0] for name in ("finished", "stopped")]
    assert [frame for frame, _ in longer[0]["evaluations"]] == [0, 60, 120, 150, 210, 240]
    assert longer[1]["evaluations"] == longer[0]["evaluations"]


class Twice(RLCallback):
    """Presses Ctrl-C twice within one update, and remembers that nothing more was done."""

    def __init__(self) -> None:
        self.went_on = False

    def on_update_end(self, agent, batch, metrics) -> None:
        if agent.env_frames >= 90:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            self.went_on = True


def test_a_second_ctrl_c_stops_at_once_without_a_checkpoint(tmp_path):
    twice = Twice()
    with pytest.raises(StopRun) as stop:
        fit(tmp_path, twice)
    assert stop.value.code == 130
    assert not twice.went_on
    assert saved_frames(tmp_path / "checkpoints" / "last.ckpt") == 60


@pytest.mark.parametrize("when", ["start", "end"])
def test_ctrl_c_before_training_or_after_it_is_no_failure(when, tmp_path):
    """There Lightning answers, with exit code 1 out of the middle of the exception."""
    options = {"class_path": f"{__name__}.Signal", "init_args": {"signum": 2, "when": when, "frame": 0}}
    config = write_yaml(tmp_path / "signal.yaml", {"trainer": {"callbacks+": [options]}})
    result = call(
        "fit", *TINY, "--max_frames=60", f"--config={config}", "--trust", f"--trainer.default_root_dir={tmp_path}"
    )
    assert result.code == 130, result.err
    assert "Traceback" not in result.err
    assert "error" not in result.err
    assert not (tmp_path / "error.txt").exists()
    assert f"at env frame {0 if when == 'start' else 60}" in result.out


def test_under_nohup_a_closed_terminal_changes_nothing(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        fit(tmp_path, Signal(signal.SIGHUP, "update", 90))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert saved_frames(tmp_path / "checkpoints" / "last.ckpt") == 150


def test_a_run_whose_terminal_is_closed_leaves_a_checkpoint(tmp_path):
    """A real terminal: a bar is being drawn there when it goes away."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 120, 0, 0))  # without a size there is no bar
    options = [option for option in TINY if "progress_bar" not in option]
    process = subprocess.Popen(
        [sys.executable, "-m", "plasticity_rl", "fit", *options, "--max_frames=1000000"]
        + ["--data.eval_every_n_frames=1000000", f"--trainer.default_root_dir={tmp_path}"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=own_terminal,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "tests" / "support"), str(REPOSITORY)])},
    )
    os.close(theirs)
    shown = b""
    while not re.search(rb"[1-9] updates", shown):  # the bar, in the middle of training
        shown += os.read(ours, 4096)
    os.close(ours)
    assert process.wait(timeout=300) == 128 + signal.SIGHUP
    assert 0 < saved_frames(tmp_path / "checkpoints" / "last.ckpt") < 1_000_000


def own_terminal() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_a_second_sigterm_changes_nothing(tmp_path):
    """A scheduler may send one to the job and one to each of its processes."""

    class Terms(RLCallback):
        def on_update_end(self, agent, batch, metrics) -> None:
            if agent.env_frames >= 90:
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StopRun) as stop:
        fit(tmp_path, Terms())
    assert stop.value.code == 143
    assert saved_frames(tmp_path / "checkpoints" / "last.ckpt") == 92


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """Environment of a SLURM job, and a ``scontrol`` that writes down what it was asked to do."""
    asked, bin_dir = tmp_path / "asked.txt", tmp_path / "bin"
    bin_dir.mkdir()
    (bin_dir / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    (bin_dir / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(bin_dir), prepend=os.pathsep)
    job = {"JOB_ID": "17", "JOB_NAME": "train", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    return asked


def test_a_requeue_by_slurm_waits_for_a_whole_state_and_goes_on_exactly(slurm, straight, tmp_path):
    """Lightning's plugin would save inside the signal: here in the middle of an update."""
    run, requeue = tmp_path / "run", {"trainer_options": {"plugins": [SLURMEnvironment()]}}
    with pytest.raises(StopRun) as stop:
        fit(run, Signal(signal.SIGUSR1, "update", 90), **requeue)
    assert stop.value.code == 128 + signal.SIGUSR1
    assert slurm.read_text().split() == ["requeue", "17"]
    assert saved_frames(run / "hpc_ckpt_1.ckpt") == saved_frames(run / "checkpoints" / "last.ckpt") == 92

    resumed = fit(run, **requeue)  # the same command: Lightning finds the checkpoint by itself
    assert differences(straight[0], resumed[0]) == []


def test_a_requeue_while_a_hook_makes_updates_goes_on_from_the_checkpoint_before(slurm, tmp_path):
    """The state is not whole there, and Lightning saves it by itself before it requeues."""
    options = {"max_frames": 60, "trainer_options": {"plugins": [SLURMEnvironment()]}}

    def primed(folder: Path, *extra: RLCallback) -> dict:
        priming = HeavyPriming(num_transitions=16, num_updates=10)
        return run_state(fit_tiny(folder, callbacks=[priming, *extra], **options))

    with pytest.raises(StopRun):
        primed(tmp_path / "run", Signal(signal.SIGUSR1, "update", 0))
    assert slurm.read_text().split() == ["requeue", "17"]
    saved = [tmp_path / "run" / name for name in ("hpc_ckpt_1.ckpt", "checkpoints/last.ckpt")]
    assert saved[0].read_bytes() == saved[1].read_bytes()
    assert differences(primed(tmp_path / "straight"), primed(tmp_path / "run")) == []


def test_the_command_line_goes_on_from_the_newest_checkpoint_after_a_requeue(slurm, tmp_path):
    fit_tiny_cli(tmp_path / "run", max_frames=100)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    os.utime(shutil.copy(last, tmp_path / "run" / "hpc_ckpt_1.ckpt"), ns=(0, 0))  # older than last.ckpt
    fit_tiny_cli(tmp_path / "run", max_frames=200)
    assert requeued_checkpoint(tmp_path / "run") == str(last)
    assert saved_frames(last) == 200


def test_lightning_still_names_its_cluster_environment(tmp_path):
    """A private attribute: without it, SLURM's requeue would save in the middle of an update."""
    trainer = make_trainer(tmp_path, plugins=[SLURMEnvironment()], logger=False, enable_progress_bar=False)
    assert isinstance(trainer._accelerator_connector.cluster_environment, SLURMEnvironment)
