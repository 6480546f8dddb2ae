"""Runs whose environments are in worker processes: killed, gone on with other workers, and stopped by a signal."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import REPOSITORY, TINY
from helpers import fit_tiny
from run_state import DieAt, Killed, differences, fingerprint, replay_state, run_state
from worker_envs import make_env_that_dies_in_a_worker

import callbacks
from plasticity_rl.envs.worker import GENERATORS
from plasticity_rl.errors import RunFailure

RUN: dict[str, Any] = {"num_envs": 2, "eval_every_n_frames": 120}
"""Checkpoints at frames 120 and 240, in mid-episode: an episode of two environments has 80 frames."""


def fit(
    folder: Path, workers: int, *given: Any, overlap: bool = False, ckpt_path: str | None = None, **data: Any
) -> Any:
    options = {**RUN, "env_workers": workers, "overlap": overlap, **data}
    return fit_tiny(folder, callbacks=given, max_frames=360, ckpt_path=ckpt_path, data_options=options)


def state(agent: Any) -> dict[str, Any]:
    """Return everything that decides how the run goes on, but for generators that only workers have."""
    found = run_state(agent)
    for env in found["checkpoint"]["collector"]["env"]["envs"]:
        env.pop(GENERATORS, None)
    return found


def test_a_killed_worker_ends_the_run_in_one_line_and_it_goes_on_exactly_without_workers(tmp_path):
    straight = state(fit(tmp_path / "straight", 0))
    with pytest.raises(RunFailure) as failure:
        fit(tmp_path / "killed", 2, env=make_env_that_dies_in_a_worker)
    last = tmp_path / "killed" / "checkpoints" / "last.ckpt"
    before, _, after = str(failure.value).partition(" (worker 1 of 2, process ")
    assert before == "an environment of tiny failed (WorkerFailed: environment 1"
    assert after.partition(") ")[2] == (
        "was ended by SIGKILL, as the system does when memory runs out) at env frame 296; "
        f"the last checkpoint is {last}: go on with fit(..., ckpt_path='last')"
    )
    assert torch.load(last, weights_only=True)["rl"]["env_frames"] == 240
    assert differences(straight, state(fit(tmp_path / "killed", 0, ckpt_path="last"))) == []


def test_with_overlap_a_run_goes_on_exactly_with_another_number_of_workers(tmp_path):
    """The checkpoint is written with a step under way, which one process with a thread does, and then two workers."""
    straight = fit(tmp_path / "straight", 0, overlap=True)
    with pytest.raises(Killed):
        fit(tmp_path / "killed", 0, DieAt(200), overlap=True)
    resumed = fit(tmp_path / "killed", 2, overlap=True, ckpt_path="last")
    assert differences(state(straight), state(resumed)) == []
    assert resumed.latest["clock/policy_lag_updates"] == straight.latest["clock/policy_lag_updates"] == 1


def test_tasks_change_in_workers_as_in_one_process(tmp_path):
    records = []
    for workers in (0, 1):
        tasks = callbacks.ContinualTasks(tasks=["tiny", "tiny_away"], every_n_frames=120)
        records.append(fingerprint(replay_state(fit(tmp_path / str(workers), workers, tasks))))
    assert differences(*records) == []


def workers_of(pid: int) -> list[Path]:
    found = []
    for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a command that the run had called is over
            if "plasticity_rl.envs.worker" in Path(f"/proc/{one}/cmdline").read_text():
                found.append(Path("/proc", one))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ctrl_c_reaches_all_processes_and_the_run_still_ends_with_a_checkpoint_of_a_whole_state(tmp_path):
    """As from a terminal: the signal goes to the run and its workers at once."""
    options = ["--data.num_envs=2", "--data.env_workers=2", "--max_frames=1000000", "--trust"]
    run = ["fit", *TINY, *options, f"--trainer.default_root_dir={tmp_path}"]
    paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests" / "support")])
    process = subprocess.Popen(
        [sys.executable, "-m", "plasticity_rl", *run],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    last = tmp_path / "checkpoints" / "last.ckpt"
    try:
        until = time.monotonic() + 200
        while not last.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        while len(workers := workers_of(process.pid)) < 2 and process.poll() is None and time.monotonic() < until:
            time.sleep(0.1)  # the kernel leaves some out while another child ends
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=100)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert len(workers) == 2, workers
    until = time.monotonic() + 60
    while any(worker.exists() for worker in workers) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(worker.exists() for worker in workers)
    assert "Traceback" not in said
    frames = torch.load(last, weights_only=True)["rl"]["env_frames"]
    assert frames % 4 == 0
    assert torch.load(last, weights_only=True)["RLDataModule"]["collector"]["env"] is not None
