"""A run folder belongs to one process at a time, and is free again however that process ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import fit_tiny

from plasticity_rl import UserError
from plasticity_rl.callback import RLCallback
from plasticity_rl.run_folder import claim

HOLD = """
import sys
from pathlib import Path
from plasticity_rl.run_folder import claim
held = claim(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()  # until it is killed, or the test is
"""


PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}


class Looks(RLCallback):
    """Tries to take the folder in the middle of a run, and then ends it if asked to."""

    def __init__(self, starts: Path, *, dies: bool = False) -> None:
        self.starts, self.dies, self.refused = starts, dies, 0

    def on_train_batch_end(self, trainer, pl_module, *args) -> None:
        with pytest.raises(UserError, match="another process is training in the run folder"):
            claim(self.starts)
        self.refused += 1
        if self.dies:
            raise RuntimeError("died")


def test_nobody_else_may_train_in_the_folder_of_a_run(tmp_path):
    looks = Looks(tmp_path / "starts.yaml")
    fit_tiny(tmp_path, callbacks=[looks], max_frames=100)
    assert looks.refused == 50, "in every env step"
    claim(tmp_path / "starts.yaml").close()


class Rival(RLCallback):
    """Takes the folder of a run that is about to start, as another process would that was started at the same time."""

    def on_fit_start(self, trainer, pl_module) -> None:
        run_dir = Path(trainer.default_root_dir)
        run_dir.mkdir()
        self.held = claim(run_dir / "starts.yaml")


def test_of_two_runs_that_start_together_one_is_refused_before_it_writes(tmp_path):
    rival, run = Rival(), tmp_path / "run"
    with pytest.raises(UserError, match="another process is training in the run folder"):
        fit_tiny(run, callbacks=[rival], max_frames=100)
    assert [path.name for path in run.rglob("*")] == ["starts.yaml"]
    rival.held.close()


def test_a_run_that_fails_gives_its_folder_back(tmp_path):
    with pytest.raises(RuntimeError, match="died"):
        fit_tiny(tmp_path, callbacks=[Looks(tmp_path / "starts.yaml", dies=True)], max_frames=100)
    claim(tmp_path / "starts.yaml").close()


def test_a_run_that_goes_on_elsewhere_is_not_resumed_beside_it(tmp_path):
    """Until the process that held it is killed."""
    fit_tiny(tmp_path, max_frames=100)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "starts.yaml"], **PIPES)
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    try:
        with pytest.raises(UserError, match=f"another process is training in the run folder {tmp_path}: stop it"):
            fit_tiny(tmp_path, max_frames=200, ckpt_path="last")
        assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert fit_tiny(tmp_path, max_frames=200, ckpt_path="last").env_frames == 200
