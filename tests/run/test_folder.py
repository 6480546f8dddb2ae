"""A run folder belongs to one process at a time, and is free again however that process ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cli_runs import TINY, append_callbacks, call
from helpers import fit_tiny

from plasticity_rl import UserError
from plasticity_rl.callback import RLCallback
from plasticity_rl.run.folder import claim, git_revision

TESTS = Path(__file__).parents[1]
HOLD = """
import sys
from pathlib import Path
from plasticity_rl.run.folder import claim
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


class OtherCommand(Rival):
    """Another command, started at the same time and quicker: it has the folder, and its options are in it."""

    def on_fit_start(self, trainer, pl_module) -> None:
        super().on_fit_start(trainer, pl_module)
        type(self).holds = self.held
        (Path(trainer.default_root_dir) / "config.yaml").write_text("seed_everything: 7\n")


@pytest.mark.parametrize("storage", ["ram", "memmap"])
def test_the_slower_of_two_commands_writes_no_options(storage, tmp_path):
    run = tmp_path / "run"
    late = append_callbacks(tmp_path / "late.yaml", [(f"{__name__}.OtherCommand", {})])
    options = ["--max_frames=100", f"--trainer.default_root_dir={run}", f"--data.storage={storage}", f"--config={late}"]
    result = call("fit", *TINY, *options)
    OtherCommand.holds.close()
    assert result.code == 2
    assert "another process is training in the run folder" in result.err
    assert sorted(path.name for path in run.rglob("*")) == ["config.yaml", "starts.yaml"]
    assert (run / "config.yaml").read_text() == "seed_everything: 7\n"


class Predecessor(RLCallback):
    """A whole run, from start to end, between two steps of the start of this one."""

    def on_fit_start(self, trainer, pl_module) -> None:
        run_dir = Path(trainer.default_root_dir)
        run_dir.mkdir()
        (run_dir / "starts.yaml").write_text("- started: meanwhile\n")


def test_a_run_that_came_and_went_meanwhile_is_not_overwritten(tmp_path):
    run = tmp_path / "run"
    with pytest.raises(UserError, match=f"the run folder {run} already holds a run"):
        fit_tiny(run, callbacks=[Predecessor()], max_frames=100)
    assert [path.name for path in run.rglob("*")] == ["starts.yaml"]
    assert (run / "starts.yaml").read_text() == "- started: meanwhile\n"


@pytest.mark.slow
def test_of_two_commands_that_are_started_together_one_runs_and_the_other_leaves_nothing(tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-W", "ignore", "-m", "plasticity_rl", "fit", *TINY, "--max_frames=400"]
    path = os.pathsep.join([str(TESTS / "support"), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    started = [
        subprocess.Popen(
            [*command, f"--trainer.default_root_dir={run}", f"--seed_everything={seed}"],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in (1, 2)
    ]
    errors = [process.communicate(timeout=500)[1] for process in started]
    codes = [process.returncode for process in started]
    assert sorted(codes) == [0, 2], errors
    assert re.search(r"another process is training in|already holds a run", errors[codes.index(2)])
    assert yaml.safe_load((run / "config.yaml").read_text())["seed_everything"] == 1 + codes.index(0)
    assert [path.name for path in run.glob("config*")] == ["config.yaml"]
    assert len(yaml.safe_load((run / "starts.yaml").read_text())) == 1


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


def test_the_commit_of_a_repository_that_only_lies_around_the_package_is_not_recorded(tmp_path):
    """The user's repository ignores its .venv: its commit says nothing about what is installed there."""

    def git(*args: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(["git", "-C", tmp_path, *who, *args], capture_output=True, text=True, check=True).stdout

    theirs, ours = tmp_path / "theirs", tmp_path / ".venv" / "ours"
    for folder in (theirs, ours):
        folder.mkdir(parents=True)
        (folder / "code.py").write_text("")
    (tmp_path / ".gitignore").write_text(".venv\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    head = git("rev-parse", "HEAD").strip()
    assert (git_revision(theirs), git_revision(ours)) == (head, "unknown")
    (theirs / "code.py").write_text("1")
    assert (git_revision(theirs), git_revision(ours)) == (f"{head}+changes", "unknown")
