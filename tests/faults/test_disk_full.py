"""A disk that fills up under a run: one line, and the last checkpoint and its replay go on exactly."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cli_runs import TINY
from fault_callbacks import FillDisk
from helpers import fit_tiny
from run_state import differences, run_state

from plasticity_rl.errors import RunFailure

TESTS = Path(__file__).parents[1]
MIB = 2**20


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 32 MiB in memory; only an administrator may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def data_options(storage: str) -> dict:
    return {"storage": storage, "image_size": 32, "capacity": 2000}


@pytest.mark.parametrize(
    ("storage", "leave", "expected"),
    [
        pytest.param(
            "ram",
            0,
            r"^the replay in \S+ cannot be written \(No space left on device\), so this",
            id="replay",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "ram", MIB // 3, r"^the checkpoint \S+last.ckpt cannot be written \(No space left", id="checkpoint"
        ),
        pytest.param("memmap", 0, r"^the replay in \S+ cannot be written \(No space left on device\), so", id="memmap"),
    ],
)
def test_the_run_ends_with_one_line_and_goes_on_exactly(storage, leave, expected, small_disk, tmp_path):
    run, options = small_disk / "run", {"data_options": data_options(storage), "max_frames": 300}
    with pytest.raises(RunFailure, match=expected) as failure:
        fit_tiny(run, callbacks=[FillDisk(small_disk, frame=110, leave=leave)], **options)
    assert "\n" not in str(failure.value)
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["rl"]["env_frames"] >= 100
    (small_disk / "filler").unlink()

    resumed = fit_tiny(run, ckpt_path="last", **options)
    straight = fit_tiny(tmp_path / "straight", **options)
    assert differences(run_state(straight), run_state(resumed)) == []


@pytest.mark.slow
def test_the_command_line_ends_with_one_line_and_code_1(small_disk):
    """In a process of its own, since TensorBoard writes in a thread."""
    full = ["--trainer.callbacks+=fault_callbacks.FillDisk", f"--trainer.callbacks.folder={small_disk}"]
    full += ["--trainer.callbacks.frame=110", f"--trainer.default_root_dir={small_disk}/run", "--max_frames=400"]
    paths = os.pathsep.join(filter(None, [str(TESTS / "support"), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]))
    process = subprocess.run(
        [sys.executable, "-m", "plasticity_rl", "fit", *TINY, *full],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert process.returncode == 1
    loading, line = process.stderr.strip().splitlines()
    assert loading.endswith("...")
    assert line.startswith("error: ")
    assert "No space left on device" in process.stderr or "the disk is full" in process.stderr
