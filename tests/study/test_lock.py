"""One ``study run`` at a time in a folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from cli_runs import call
from tiny_studies import tiny_study

from plasticity_rl.errors import UserError
from plasticity_rl.study.lock import LOCK, at_work


def test_the_second_says_that_the_first_is_at_work(tmp_path):
    study = tiny_study(tmp_path, {"arm": {"one": []}})
    with at_work(tmp_path / "runs"):
        result = call("study", "run", study)
        assert (result.code, result.err.count("\n")) == (2, 1), result.err
        assert re.search(
            rf"another `study run` is at work in .*/runs \(host \S+, pid {os.getpid()}, since 20", result.err
        )
        assert not (tmp_path / "runs" / "study.yaml").exists()
        assert call("study", "status", study).code == 0
    with at_work(tmp_path / "runs"):
        pass


def test_a_lock_that_a_dead_process_left_does_not_block(tmp_path):
    code = f"""
import os
from pathlib import Path
from plasticity_rl.study.lock import at_work
with at_work(Path({str(tmp_path)!r})):
    os._exit(9)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    assert "pid" in (tmp_path / LOCK).read_text()
    with at_work(tmp_path):
        pass


def test_without_locks_the_process_is_looked_for(tmp_path, monkeypatch, capsys):
    def no_locks(*args) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr("plasticity_rl.study.lock.fcntl.flock", no_locks)
    with at_work(tmp_path), pytest.raises(UserError, match="is at work in"), at_work(tmp_path):
        pass
    assert capsys.readouterr().err == ""
    (tmp_path / LOCK).write_text("{host: another, pid: 1, since: 2026-01-01}")
    with at_work(tmp_path):
        assert "has no locks, and a `study run` is noted there that has not ended" in capsys.readouterr().err
    (tmp_path / LOCK).write_text("{broken")
    with at_work(tmp_path):
        pass


@pytest.mark.parametrize("folder", ["/proc/x", "{tmp}/file/x", "{tmp}/{long}"])
def test_a_folder_that_cannot_be_written_is_one_line(folder, tmp_path):
    (tmp_path / "file").touch()
    folder = folder.format(tmp=tmp_path, long=300 * "a")
    study = tiny_study(tmp_path, {"arm": {"one": []}})
    study.write_text(study.read_text().replace(f"folder: {tmp_path / 'runs'}", f"folder: {folder}"))
    result = call("study", "run", study)
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    assert f"the study's folder {folder} cannot be written" in result.err
