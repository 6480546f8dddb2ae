"""``plasticity-rl study run --ray-address``: a real Ray cluster on this machine."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from cli_runs import REPOSITORY, call
from tiny_studies import tiny_study

from plasticity_rl.study.spec import finished_frames, read_study, state_of

FACTORS = {"lr": {"refused": ["init_weights=/nowhere/lost.ckpt"], "usual": ["model.lr=0.001"]}}
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra [cluster] is not installed")


@pytest.fixture(autouse=True)
def tiny_env_can_be_imported(monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY / "tests" / "support"), str(REPOSITORY)]))


def test_without_ray_one_line_says_what_to_install(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else found(name, *rest))
    result = call("study", "run", tiny_study(tmp_path, FACTORS), "--ray-address", "local")
    assert result.code == 2
    assert result.err == (
        "error: --ray-address needs Ray, which is not installed: pip install 'plasticity-rl[cluster]'\n"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gpus-per-run", "0.25"], "--cpus-per-run and --gpus-per-run go with --ray-address"),
        (
            ["--ray-address", "local", "--gpus-per-run", "1.5"],
            "'1.5' must be a part of one (0.25), or a whole number >= 0",
        ),
        (["--ray-address", "local", "--cpus-per-run", "0"], "'0' must be a part of one (0.25), or a whole number >= 1"),
    ],
)
def test_what_is_wrong_is_said_before_a_cluster_is_asked(options, message, tmp_path):
    result = call("study", "run", tiny_study(tmp_path, FACTORS), *options)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1


def test_ray_is_imported_only_when_it_is_asked_for(tmp_path):
    code = "import sys; from plasticity_rl.__main__ import main; main(sys.argv[1:]); print('ray' in sys.modules)"
    command = [sys.executable, "-c", code, "study", "status", tiny_study(tmp_path, FACTORS)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1] == "False"


@needs_ray
def test_a_run_lies_on_one_node(tmp_path):
    """Two machines of 4 CPUs have no room for a run of 5, and for four of 2 with half a GPU where there is one."""
    from plasticity_rl.study.ray import no_room, places

    nodes = [{"CPU": 4.0, "memory": 1e9}, {"CPU": 4.0, "GPU": 1.0}]
    asked = [(5.0, 0.0), (2.0, 0.0), (2.0, 0.5), (0.5, 0.25)]
    assert [places(nodes, {"CPU": cpus, "GPU": gpus}) for cpus, gpus in asked] == [0, 4, 2, 4]
    line = no_room(nodes, {"CPU": 5.0, "GPU": 0.0})
    assert "the cluster has 8 and 1, and a run needs them on one machine (the largest: 4 and 1, 4 and 0)" in line

    result = call("study", "run", tiny_study(tmp_path, FACTORS), "--ray-address", "127.0.0.1:1")
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    assert "--ray-address 127.0.0.1:1: no connection within 10 seconds" in result.err


@pytest.mark.slow
@needs_ray
def test_a_study_on_a_cluster(tmp_path):
    """Two places at a time; a run that fails is said to, the other one is an ordinary run folder."""
    path = tiny_study(tmp_path, FACTORS)
    refused, usual = read_study(path).runs()
    result = call("study", "run", path, "--ray-address", "local", "--cpus-per-run", "0.5")
    assert result.code == 1, result.err
    assert "1 of 2 runs failed (tiny/refused/seed1)" in result.err
    assert "tiny/refused/seed1 failed with exit code 2: error: --init_weights /nowhere/lost.ckpt" in result.out
    assert "tiny/usual/seed1 finished in" in result.out
    first, second = (line for line in result.out.splitlines() if line.startswith("[0/2]"))
    assert "started" in first
    assert "started" in second, "both at a time"
    assert finished_frames(usual.folder) == 100
    assert "Return after training" in (usual.folder / "log.txt").read_text()
    assert not (refused.folder / "checkpoints").exists()


@pytest.mark.slow
@needs_ray
def test_a_cluster_without_room_for_a_run_is_refused(tmp_path):
    result = call("study", "run", tiny_study(tmp_path, FACTORS), "--ray-address", "local", "--cpus-per-run", "10000")
    assert result.code == 2
    assert re.search(r"no room for a run of 10000 CPUs and 0 GPUs: the cluster has \d+ and \d+", result.err)


@pytest.mark.slow
@needs_ray
def test_four_runs_share_one_gpu_and_stop_with_a_checkpoint(tmp_path):
    """Ray believes in a GPU that it is told of; the runs themselves are on the CPU. Ctrl-C reaches those that go on."""
    path = tiny_study(tmp_path, {"one": {"arm": []}}, seeds=[1, 2, 3, 4, 5], max_frames=200_000)
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"  # ignored in a background job
        "import sys, ray; ray.init(address='local', num_cpus=1, num_gpus=1, log_to_driver=False, "
        "_node_ip_address='127.0.0.1', include_dashboard=False);"
        "from plasticity_rl.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    options = ["--ray-address", "local", "--cpus-per-run", "0.25", "--gpus-per-run", "0.25"]
    command = [sys.executable, "-c", code, "study", "run", str(path), *options]
    log = tmp_path / "out.txt"
    with log.open("w") as out:
        study = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    runs = read_study(path).runs()
    wait_for(lambda: sum((run.folder / "starts.yaml").is_file() for run in runs) == 4, 240)
    time.sleep(2)
    assert not runs[4].folder.exists(), "four quarters are taken"
    study.send_signal(signal.SIGINT)
    study.wait(240)
    text = log.read_text()
    assert study.returncode == 130, text
    assert text.count("stopped tiny/arm/seed") == 4
    assert [state_of(run, 200_000) for run in runs] == ["stopped"] * 4 + ["new"]
    assert all("Stopped by SIGTERM" in (run.folder / "log.txt").read_text() for run in runs[:4])


def wait_for(condition, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds} s"
        time.sleep(0.5)
