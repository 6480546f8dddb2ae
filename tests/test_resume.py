"""A run on real pixels or a real game that is killed ends bit for bit like the run that was left alone."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import resume_run
import torch

TESTS = Path(__file__).parent


def start(folder: Path, agent: str, storage: str, kill_at: int) -> subprocess.CompletedProcess[str]:
    """Run in a process of its own, as only such a one can be killed."""
    script = str(TESTS / "support" / "resume_run.py")
    command = [sys.executable, "-W", "ignore", script, str(folder), agent, storage, str(kill_at)]
    paths = [str(TESTS / "support"), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=550, env=environment)


def run_to_the_end(folder: Path, agent: str, storage: str) -> dict[str, Any]:
    """Begin, or go on, in this process: another one than that which was killed, and nothing to import again."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        resume_run.main(folder, agent, storage, 0)
    return json.loads(out.getvalue().strip().splitlines()[-1])


def frames_of(folder: Path) -> int:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["rl"]["env_frames"]


def killed(folder: Path, agent: str, storage: str, at: int, *, last_checkpoint: int) -> None:
    process = start(folder, agent, storage, at)
    assert process.returncode == -signal.SIGKILL, process.stderr[-2000:]
    assert frames_of(folder) == last_checkpoint


@functools.cache
def straight(agent: str) -> dict[str, Any]:
    """Return the run that was never stopped."""
    with tempfile.TemporaryDirectory() as folder:
        run = run_to_the_end(Path(folder), agent, "ram")
    assert run["facts"]["frames"] == 1440
    assert [frames for frames, _ in run["facts"]["evaluated"]] == [0, 480, 960, 1440]
    return run


def assert_equal(resumed: dict[str, Any], straight: dict[str, Any]) -> None:
    assert resumed["facts"] == straight["facts"]
    different = [part for part, digest in straight["digests"].items() if resumed["digests"][part] != digest]
    assert different == []


@pytest.mark.parametrize(
    ("storage", "kills"),
    [
        pytest.param("ram", [(1300, 960)], id="ram"),
        pytest.param("memmap", [(1300, 960)], id="memmap"),
        pytest.param("ram", [(800, 480), (1300, 960)], id="ram-twice", marks=pytest.mark.slow),
        pytest.param("memmap", [(800, 480), (1300, 960)], id="memmap-twice", marks=pytest.mark.slow),
    ],
)
def test_killed_in_mid_epoch_and_resumed_is_exact(storage, kills, tmp_path):
    """Killed at frame 800, inside the first episode, and at 1300: the checkpoint is one episode older."""
    for frame, last_checkpoint in kills:
        killed(tmp_path, "drqv2", storage, frame, last_checkpoint=last_checkpoint)
    assert_equal(run_to_the_end(tmp_path, "drqv2", storage), straight("drqv2"))


def test_a_rainbow_run_on_a_real_game_that_was_killed_goes_on_exactly(tmp_path):
    """With priorities, noise, lost lives and a game that ends in between."""
    pytest.importorskip("ale_py")
    killed(tmp_path, "rainbow", "ram", 1300, last_checkpoint=960)
    assert_equal(run_to_the_end(tmp_path, "rainbow", "ram"), straight("rainbow"))
