"""``plasticity-rl study run``: real runs in processes of their own, skipped when finished, resumed when stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import yaml
from cli_runs import REPOSITORY, call
from tiny_studies import tiny_env_can_be_imported, tiny_study

from plasticity_rl.cli.study_checks import refuse_wrong_arms
from plasticity_rl.cli.study_configs import StudyConfigs
from plasticity_rl.errors import UserError
from plasticity_rl.study import runner
from plasticity_rl.study.spec import finished_frames, read_study, state_of

__all__ = ["tiny_env_can_be_imported"]  # a fixture, used by every test here


def heir_of(arm: str) -> list[str]:
    """Return an arm whose runs start with the replay of those of another one."""
    return [
        "trainer.callbacks+=callbacks.WarmStartReplay",
        f"trainer.callbacks.path={{folder}}/{{task}}/{arm}/seed{{seed}}",
    ]


@pytest.mark.parametrize(
    ("workers", "set_by_user", "threads"), [(1, None, "6"), (2, None, "3"), (9, None, "1"), (2, "5", "5")]
)
def test_workers_share_the_cores_that_this_process_may_use(workers, set_by_user, threads, monkeypatch):
    """A cluster's quota, not what the machine has; what the user says counts."""
    started = []
    monkeypatch.setattr(runner, "available_cores", lambda: 6)
    monkeypatch.setattr(subprocess, "Popen", lambda command, env, **options: started.append(env))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if set_by_user:
        monkeypatch.setenv("OMP_NUM_THREADS", set_by_user)
    runner.launch_here(["--max_frames=100"], subprocess.DEVNULL, num_workers=workers)
    assert started[0]["OMP_NUM_THREADS"] == threads


def test_a_run_ends_with_the_process_that_started_it(tmp_path):
    """Also when that is killed: asked to end, as by SIGTERM. A module of the run's name stands in for it."""
    (tmp_path / "plasticity_rl.py").write_text(
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), os._exit(143)))\n"
        "print('pid', os.getpid(), *sys.argv[1:], flush=True); time.sleep(60); print('left alone')\n"
    )
    log = tmp_path / "log.txt"
    code = (
        "import os, time; from plasticity_rl.study.runner import start_fit\n"
        f"log = open({str(log)!r}, 'wb')\n"
        f"start_fit(['--x=1'], log, dict(os.environ, PYTHONPATH=''), {str(tmp_path)!r}); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, env=environment)
    wait_until(lambda: log.is_file() and "pid" in log.read_text())
    assert "fit --x=1" in log.read_text()
    parent.kill()
    parent.wait()
    wait_until(lambda: "saved" in log.read_text())


def wait_until(condition, seconds: float = 50.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_failing_run_does_not_stop_the_others_and_finished_ones_are_skipped(tmp_path):
    lost = f"init_weights={tmp_path}/lost.ckpt"
    arms = {"refused": [lost], "heir": heir_of("usual"), "usual": ["model.lr=0.001"]}
    path = tiny_study(tmp_path, {"arm": arms})
    refused, heir, usual = read_study(path).runs()

    result = call("study", "run", path, "--workers", "2")
    assert result.code == 1
    assert result.err.count("\n") == 1
    assert "1 of 3 runs failed (tiny/refused/seed1)" in result.err
    assert f"tiny/refused/seed1 failed with exit code 2: error: --init_weights {tmp_path}/lost.ckpt" in result.out
    assert "tiny/usual/seed1 finished in" in result.out
    assert "note: 1 seeds per arm" in result.out
    assert "lost.ckpt" in (refused.folder / "log.txt").read_text()
    assert "Return after training" in (usual.folder / "log.txt").read_text()
    assert finished_frames(usual.folder) == 100
    assert list(usual.folder.glob("events.out.tfevents.*"))
    # The heir comes before the run whose replay it starts with, there is a place for it, and it waits.
    lines = [line.partition("] ")[2].partition(" in ")[0] for line in result.out.splitlines() if line.startswith("[")]
    of_two = [line for line in lines if "refused" not in line]
    assert of_two == [f"tiny/{name}/seed1 {what}" for name in ("usual", "heir") for what in ("started", "finished")]
    assert finished_frames(heir.folder) == 100

    # The run that was refused is tried again, as the study says it now; the other one is not touched.
    before = (usual.folder / "starts.yaml").read_bytes()
    tiny_study(tmp_path, {"arm": {**arms, "refused": ["model.lr=0.01"]}})
    assert "tiny  usual    finished" in call("study", "status", path).out
    again = call("study", "run", path)
    assert again.code == 0, again.err
    assert "3 runs of 100 frames" in again.out
    assert "2 finished, 0 stopped, 1 new" in again.out
    assert (usual.folder / "starts.yaml").read_bytes() == before
    assert call("study", "run", path, "--dry-run").out == ""


def test_nothing_is_run_where_an_arm_would_be_refused(tmp_path):
    """Whatever is known before anything is built: its options, its callbacks, and its task where it is simulated."""
    arms = {"usual": [], "wrong": ["model.lr=-1"], "two": ["trainer.callbacks+=callbacks.Reset", "model.fast=true"]}
    path = tiny_study(tmp_path, {"arm": arms}, seeds=[1, 2])
    result = call("study", "run", path)
    assert result.code == 2
    assert result.err == (
        "error: nothing is run: tiny/wrong/seed1, tiny/two/seed1 would be refused, the first of them for: "
        "model.lr=-1.0 must be in (0, 1]; published: 0.0001\n"
    )
    assert not list((tmp_path / "runs").glob("*/*"))

    configs = StudyConfigs(imports=True)
    (one,) = read_study(tiny_study(tmp_path, {"arm": {"usual": []}}, tasks=["cartpole_swingip"])).runs()
    one = replace(one, arguments=tuple(a for a in one.arguments if not a.startswith("--data.env")))
    with pytest.raises(UserError, match=r"cartpole_swingip/usual/seed1 would be refused: .*cartpole_swingup"):
        refuse_wrong_arms([one], configs, simulated_here=True)
    refuse_wrong_arms([one], configs, simulated_here=False)


def test_a_run_that_waits_for_one_that_failed_fails_too(tmp_path):
    """Started when the other has failed; what it says by itself is WarmStartReplay's to test."""
    study = read_study(tiny_study(tmp_path, {"arm": {"heir": heir_of("donor"), "donor": []}}))
    said: list[str] = []

    def fail(arguments, log):
        return subprocess.Popen(["sh", "-c", "echo 'error: no'; exit 2"], stdout=log, stderr=log)

    failing = runner.Runner(study.max_frames, 2, fail, say=said.append)
    failing.run_all(study.runs())
    assert [line.partition("] ")[2].partition(" (")[0] for line in said] == [
        *("tiny/donor/seed1 started", "tiny/donor/seed1 failed with exit code 2: error: no"),
        *("tiny/heir/seed1 started", "tiny/heir/seed1 failed with exit code 2: error: no"),
    ]
    assert [(run.name, code) for run, code in failing.failed] == [("tiny/donor/seed1", 2), ("tiny/heir/seed1", 2)]


def test_the_commands_of_a_dry_run_are_those_of_the_runs(tmp_path):
    path = tiny_study(tmp_path, {"augmentation": {"with": [], "without": ["model.augment=false"]}}, seeds=[3])
    lines = call("study", "run", path, "--dry-run").out.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("plasticity-rl fit --config ")
    assert "--model.augment=false --data.task=tiny --seed_everything=3 --max_frames=100" in lines[1]
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_ctrl_c_lets_the_runs_save_and_the_study_goes_on_from_there(tmp_path):
    path = tiny_study(tmp_path, {"one": {"arm": []}}, max_frames=20_000)
    (run,) = read_study(path).runs()
    command = [sys.executable, "-m", "plasticity_rl", "study", "run", path]
    study = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until = time.monotonic() + 250
    while not (run.folder / "checkpoints" / "last.ckpt").is_file() and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(2)
    study.send_signal(signal.SIGINT)
    out, _ = study.communicate(timeout=250)
    assert study.returncode == 130, out
    assert "stopped tiny/arm/seed1" in out
    assert f"go on with plasticity-rl study run {path}" in out
    assert "Stopped by SIGTERM at env frame" in (run.folder / "log.txt").read_text()
    assert state_of(run, 20_000) == "stopped"
    reached = yaml.safe_load((run.folder / "starts.yaml").read_text())
    assert len(reached) == 1

    tiny_study(tmp_path, {"one": {"arm": []}}, max_frames=20_000)
    assert "--ckpt_path last" in call("study", "run", path, "--dry-run").out
