"""The examples run as they are, with fewer frames."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runs import REPOSITORY, checkpoint, events

EXAMPLES = REPOSITORY / "examples"


def run_example(name: str, *args: str | Path) -> str:
    paths = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
    process = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        timeout=550,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


def test_train_drqv2(tmp_path):
    out = run_example("train_drqv2.py", "--max_frames", "2000", "--run_dir", tmp_path)
    assert "(frame 2,000)" in out
    saved = checkpoint(tmp_path)["rl"]
    assert saved["env_frames"] == 2000
    assert saved["num_updates"] > 50
    tags = events(tmp_path).Tags()["scalars"]
    assert {"eval/return", "loss/critic", "fau/critic", "intervention/reset"} <= set(tags)


def test_write_a_callback(tmp_path):
    out = run_example("write_a_callback.py", "--max_frames", "2000", "--run_dir", tmp_path)
    assert "largest weight of the critic" in out
    assert checkpoint(tmp_path)["rl"]["env_frames"] == 2000
    tags = events(tmp_path).Tags()["scalars"]
    assert {"largest_weight/encoder", "largest_weight/critic", "intervention/shrink"} <= set(tags)


@pytest.mark.slow
def test_own_environment(tmp_path):
    pytest.importorskip("gymnasium")
    run_example("own_environment.py", "--max_frames", "1000", "--run_dir", tmp_path)
    saved = checkpoint(tmp_path)
    assert saved["rl"]["env_frames"] == 1000
    assert saved["RLDataModule"]["collector"]["env"]["simulator"]["inner"].keys() >= {"position", "velocity", "goal"}


def test_measure_any_module():
    out = run_example("measure_any_module.py", "--num_tasks", "3")
    numbers = lambda text: [float(word) for word in text.split() if word[0].isdigit()]  # noqa: E731
    rows = {line.split()[0]: numbers(line.partition(" ")[2]) for line in out.splitlines()}
    assert rows.keys() == {"fau", "dormant/tau_0.025", "linearized", "rank/srank", "weight_norm"}
    for before, after, tasks in rows.values():
        assert tasks == 3
        assert before >= 0
        assert after >= 0
    assert 0.4 < rows["fau"][0] < 0.6
    assert rows["weight_norm"][1] > rows["weight_norm"][0]
    assert 1 <= rows["rank/srank"][1] <= 64


@pytest.mark.slow
def test_run_a_study(tmp_path):
    """Four runs, and a second call that trains nothing."""
    out = run_example("run_a_study.py", "--folder", tmp_path)
    assert out.count(" finished in ") == 4
    assert "4 runs of 2,000 env frames" in out
    assert "| usual | 2 |" in out
    assert "| high | 2 |" in out
    assert len(list(tmp_path.glob("cartpole_swingup/*/seed*/finished.yaml"))) == 4
    again = run_example("run_a_study.py", "--folder", tmp_path)
    assert "started" not in again
    assert "| high | 2 |" in again


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_says_how_to_run_it(path):
    assert f"python examples/{path.name}" in path.read_text().split('"""')[1]
