"""Every benchmark at a tiny size, in its real processes: that it runs, and what it keeps. No time is looked at."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import pytest
import torch
import yaml
from cli_runs import REPOSITORY

import callbacks
from plasticity_rl import DrQV2, Intervention
from plasticity_rl.machine import cores

PRELOADED = ["benchmarks.contestants.inside", "plasticity_rl.cli.app", "callbacks"]


@pytest.fixture(autouse=True)
def root_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY))


class Forked:
    """In place of ``subprocess.Popen``: the same command in a fork of a process that has imported everything."""

    def __init__(self, command: list[str], *, env: dict[str, str], stdout: TextIO, **ignored: Any) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        log = stdout.name
        self._process = context.Process(target=run_command, args=(command[1:], env, log), daemon=True)
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int | None:
        self._process.join()
        return self._process.exitcode


def run_command(command: list[str], env: dict[str, str], log: str) -> None:
    """Be ``python -m MODULE ARGUMENTS``, or ``python -c PROGRAM ARGUMENTS``."""
    os.setpgrp()
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(REPOSITORY)
    sys.argv = command[1:]
    if command[0] == "-c":
        exec(command[1], {"__name__": "__main__"})
        return
    assert command[0] == "-m"
    runpy.run_module(command[1], run_name="__main__", alter_sys=True)


@pytest.fixture
def bench(tmp_path, monkeypatch, capsys) -> Callable[..., tuple[dict[str, Any], str]]:
    """Return a function that does ``python -m benchmarks``, and returns what was kept and what was printed."""

    def run(*arguments: str | Path) -> tuple[dict[str, Any], str]:
        kept = tmp_path / "kept.json"
        options = ["--size", "tiny", "--repeats", "1", "--threads", "1", "--json", kept]
        monkeypatch.setattr("benchmarks.harness.contest.Popen", Forked)
        monkeypatch.setattr("sys.argv", ["benchmarks", *map(str, [*options, *arguments])])
        importlib.import_module("benchmarks.__main__").main()
        return json.loads(kept.read_text()), capsys.readouterr().out

    return run


def names(rows: list[dict[str, Any]]) -> list[str]:
    return [row["name"] for row in rows]


def test_learner(bench):
    kept, out = bench("learner")
    found = kept["learner"]
    assert names(found["rows"]) == ["float32", "bf16"]
    assert not found["failed"]
    assert found["contestants"]["bf16"]["precision"] == "bf16-mixed"
    assert all(len(row["ratios"]) == 1 for row in found["rows"][1:])
    assert kept["machine"]["torch"] == metadata.version("torch")  # pip's name; torch adds the build, "+cu130"
    assert "updates/s" in out


def test_replay_and_render(bench):
    kept, _ = bench("replay", "render", "--task", "cartpole_swingup")
    assert names(kept["replay"]["sampling"]) == names(kept["replay"]["writing"]) == ["ours, ram", "ours, memmap"]
    sizes = {name: size for name, size, _ in kept["replay"]["bytes"]}
    # A record: a frame of 3 * 16 * 16 bytes, 6 + 1 + 1 floats, an int64 and a bool; 501 of them hold 500 transitions.
    record = 768 + 8 * 4 + 8 + 1
    assert sizes["ours, ram"] == sizes["ours, memmap"] == pytest.approx(record * 501 / 500)
    assert sizes["observation pairs (computed)"] == 2 * 9 * 16 * 16 + 8 * 4
    assert names(kept["render"]["rows"]) == ["ours, exact", "ours, fast"]
    assert kept["render"]["contestant"]["identical"] is None


def test_end_to_end(bench):
    kept, _ = bench("end_to_end", "--units", "20", "--without", "bf16", "overlap")
    trained = kept["end_to_end"]
    assert names(trained["rows"]) == ["float32"]
    for turns in trained["answers"].values():
        assert [turn["num_updates"] for turn in turns] == [10]  # replay ratio 0.5


def test_overhead(bench):
    kept, out = bench("overhead", "--units", "20")
    taxed = kept["overhead"]["tiny"]
    with_options = ["fit, 50 env steps per tick", "fit, 16 environments"]
    lanes = ["plain torch", "plain loop, DrQV2.update", "fit", "fit, parts timed", *with_options]
    alone = ["libraries alone, no update", "libraries alone, no network"]
    assert names(taxed["rows"]) == [*lanes, *alone]
    assert min(taxed["stock_ms"], taxed["libraries_ms"]) > 0
    for name in ("fit", *alone):
        assert [turn["num_updates"] for turn in taxed["answers"][name]] == [10]
    # 20 env steps were asked for: a tick has 50, one step of all environments 16.
    assert [taxed["answers"][name][0]["env_steps"] for name in with_options] == [50, 32]
    assert [taxed["answers"][name][0]["num_updates"] for name in with_options] == [25, 16]
    assert list(taxed["taxes"]) == ["fit", *with_options]
    assert taxed["taxes"]["fit"]["of_base"] == 1.0
    parts = taxed["parts"]
    assert parts.pop("all") == pytest.approx(sum(parts.values()))
    assert min(parts.values()) >= 0
    assert "the framework costs" in out


def test_overhead_against_another_worktree(bench, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("benchmarks", "plasticity_rl", "callbacks", "configs"):
        (other / name).symlink_to(REPOSITORY / name)
    kept, out = bench("overhead", "--units", "20", "--against", other)
    taxed = kept["overhead"]["tiny"]
    (row,) = taxed["taxes"].keys() - {"fit", "fit, 50 env steps per tick", "fit, 16 environments"}
    assert taxed["taxes"][row]["cpu_of_base"] == 1.0
    assert f"share of that of {row}" in out
    assert not taxed["failed"]


def test_an_older_worktree_has_its_parts_elsewhere(tmp_path):
    ours = importlib.import_module("benchmarks.contestants.ours")
    (tmp_path / "benchmarks").mkdir()
    assert ours.blank(tmp_path)[0] == "--data.env=benchmarks.blank_env.make_env"
    command = ours.fit_command("TimedTraining", "tiny", "run", root=tmp_path)
    assert "--trainer.callbacks+=benchmarks.inside.TimedTraining" in command
    assert str(tmp_path / "configs" / "drqv2.yaml") in command


def test_blank_environments_side_by_side_are_in_step():
    env = importlib.import_module("benchmarks.contestants.blank_env").make_env("blank_3", image_size=4, num_envs=2)
    rollout = env.rollout(4, break_when_any_done=False)
    assert rollout["pixels"].shape == (2, 4, 9, 4, 4)
    assert torch.equal(rollout["pixels"][0], rollout["pixels"][1])
    assert rollout["next", "done"][:, :, 0].tolist() == [[False, False, True, False]] * 2


def test_scaling_draws_a_figure(bench, tmp_path):
    kept, _ = bench("scaling", "--task", "cartpole_swingup", "--figure", tmp_path / "scaling.svg")
    for what, sizes in importlib.import_module("benchmarks.measurements.scaling").RANGES["tiny"].items():
        assert [row[0] for row in kept["scaling"][what]] == sizes
    assert "<svg" in (tmp_path / "scaling.svg").read_text()


def test_env_scaling(bench):
    kept, out = bench("env_scaling", "--task", "cartpole_swingup")
    lanes = ["1 environment, in this process", "2 environments, in this process", "2 environments, in 2 workers"]
    for render in ("exact", "fast"):
        rows = kept["env_scaling"][render]["rows"]
        assert names(rows) == lanes
        assert all(len(row["ratios"]) == 1 for row in rows[1:])
        assert f"cartpole_swingup, {render}" in out


@pytest.mark.parametrize(("cores", "counts"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_workers_go_up_to_the_cores(cores, counts):
    assert importlib.import_module("benchmarks.measurements.env_scaling").worker_counts(cores) == counts


def test_probes(bench, tmp_path):
    config = yaml.safe_load((REPOSITORY / "configs" / "quickstart.yaml").read_text())
    config["data"] |= {"image_size": 24, "batch_size": 8}
    config["model"] |= {"num_channels": 2, "hidden_dim": 8, "num_seed_frames": 200}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    options = ["--config", path, "--repeats", "1", "--together-only", "--without", "RandomTargetFit"]
    kept, out = bench("probes", "--", *options)
    assert names(kept["probes"]["rows"])[-1] == "all of these"
    assert "plain update" in out


def test_a_contestant_that_fails_is_named(bench):
    kept, out = bench("learner", "--without", "bf16", "--ours=--model.hidden_dim=0")
    assert "hidden_dim=0 must be" in kept["learner"]["failed"]["--model.hidden_dim=0"]
    assert "--model.hidden_dim=0 " not in out


def test_the_reference_loads_twice_in_one_process(tmp_path, monkeypatch):
    reference = importlib.import_module("benchmarks.contestants.reference")
    for name in reference.FILES:
        (tmp_path / name).write_text("import hydra\n" if name == "drqv2.py" else "")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setattr("sys.modules", sys.modules.copy())
    with warnings.catch_warnings():
        first, second = (reference.load(str(tmp_path)) for _ in range(2))
    assert first.drqv2 is second.drqv2
    assert first.drqv2.__file__ == str(tmp_path / "drqv2.py")
    assert sys.path.count(str(tmp_path)) == 1


def test_reference_must_be_a_clone(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "render", "--reference", str(tmp_path)]
    process = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=550)
    assert process.returncode == 1
    assert "no dmc.py, drqv2.py, replay_buffer.py, utils.py there" in process.stderr


def test_contestants_stand_still_between_turns():
    contest = importlib.import_module("benchmarks.harness.contest")
    # Once connected it writes into its own answers how often it went round while nobody asked.
    code = (
        "import socket, os, threading, time, json\n"
        "c = socket.socket(socket.AF_UNIX); c.connect(os.environ['BENCHMARK_SOCKET']); f = c.makefile('rw')\n"
        "last, longest = time.monotonic(), 0.0\n"
        "def watch():\n"
        "    global last, longest\n"
        "    while True:\n"
        "        now = time.monotonic(); longest = max(longest, now - last); last = now; time.sleep(0.01)\n"
        "threading.Thread(target=watch, daemon=True).start()\n"
        "f.write('{}\\n'); f.flush()\n"
        "for line in f:\n"
        "    time.sleep(0.1); f.write(json.dumps({'longest': longest}) + '\\n'); f.flush()\n"
    )
    with contest.Contestant("clock", [sys.executable, "-c", code]) as contestant:
        time.sleep(1.5)
        assert contestant.ask()["longest"] >= 1.0  # its watch saw the time in which it was stopped as one gap
        pid = contestant._process.pid
    with pytest.raises(ProcessLookupError):
        os.killpg(pid, 0)


def test_plain_torch_does_the_same_update():
    bare = importlib.import_module("benchmarks.contestants.bare_loop")
    inside = importlib.import_module("benchmarks.contestants.inside")
    agents = []
    for _ in range(2):
        torch.manual_seed(0)
        agents.append(DrQV2((9, 16, 16), 6, hidden_dim=8, num_channels=2, lr=1e-3))
    ours, plain = agents
    optimizers = plain.configure_optimizers()
    for _ in range(3):
        batch = inside.random_batch(8, (9, 16, 16), 6)
        ours.update(batch)
        columns = [batch[key] for key in ("pixels", "action", "reward", "discount", ("next", "pixels"))]
        bare.plain_update(plain, optimizers, tuple(columns))
    for (name, one), two in zip(ours.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


def test_ring_of_the_bare_loop():
    bare = importlib.import_module("benchmarks.contestants.bare_loop")
    ring = bare.Ring(capacity=50, image_size=2)
    for number in range(20):
        ring.write(torch.full((3, 2, 2), number, dtype=torch.uint8), torch.full((6,), float(number)), float(number))
    buffers = [torch.empty(4 * 3, 12, dtype=torch.uint8) for _ in range(2)]
    now, action, reward, discount, later = ring.sample(4, buffers)
    newest = now[:, 6, 0, 0].float()  # of three frames of three channels
    assert torch.equal(now[:, 0, 0, 0].float(), newest - 2)
    assert torch.equal(action[:, 0], newest)
    assert torch.equal(later[:, 6, 0, 0].float(), newest + 3)
    # r0 + 0.99 r1 + 0.9801 r2 with rewards that count up by one
    torch.testing.assert_close(reward[:, 0], newest + 0.99 * (newest + 1) + 0.9801 * (newest + 2))
    torch.testing.assert_close(discount, torch.full((4, 1), 0.970299))


def test_ratios_are_of_the_same_round(capsys):
    report = importlib.import_module("benchmarks.harness.report")
    turn = lambda units, seconds: {"units": units, "seconds": seconds, "cpu_seconds": 2 * seconds}  # noqa: E731
    answers = {"theirs": [turn(4, 2.0), turn(4, 8.0)], "ours": [turn(4, 1.0), turn(4, 1.0)]}
    theirs, ours = report.rate_rows(answers, "theirs")
    # 2 and 0.5 against 4 and 4 units per second
    assert (theirs["median"], theirs["min"], theirs["max"]) == (1.25, 0.5, 2.0)
    assert "ratio" not in theirs
    assert ours["ratios"] == [2.0, 8.0]
    assert ours["ratio"] == ours["cpu_ratio"] == 5.0
    (seconds, _) = report.rate_rows(answers, None, better="lower", scale=1e3)
    assert (seconds["min"], seconds["max"]) == (500.0, 2000.0)
    report.print_rates("title", "updates/s", [theirs, ours], "theirs")
    report.print_rates("title", "updates/s", [theirs, ours], "theirs", cpu=False)
    with_cpu, without = capsys.readouterr().out.split("title")[1:]
    assert "5.00   (5.00)  2.00 8.00" in with_cpu
    assert "2.00 8.00" in without
    assert "(5.00)" not in without


def test_adam_compares_fused_with_the_default():
    adam = importlib.import_module("benchmarks.measurements.adam")
    default, fused = adam.measure("tiny", repeats=2)
    assert (default["name"], fused["name"]) == (adam.BASELINE, "fused")
    assert len(fused["ratios"]) == 2
    assert default["min"] > 0


def test_the_waits_of_a_command_line_are_what_they_are_called():
    """Help ends well, mistakes are refused, a run says that it loads: it asserts that itself."""
    start_up = importlib.import_module("benchmarks.measurements.start_up")
    assert start_up.measure(repeats=0) == {name: [] for name in (*start_up.COMMANDS, "first line")}


def test_networks_for_games_are_those_of_the_papers():
    """Parameters worked out by hand: MinAtar's convolution 10 * 16 * 9 + 16, then 1024 * 128 + 128 and 128 * 6 + 6."""
    games = importlib.import_module("benchmarks.measurements.games")
    found = games.measure(["mini", "MinAtar"], repeats=1, updates=1)
    assert found["MinAtar"]["parameters"] == 1456 + 131200 + 774
    assert found["mini"]["parameters"] == 4 * 16 * 64 + 16 + 16 * 32 * 16 + 32 + 288 * 128 + 128 + 774
    assert all(one["update_ms"] > 0 and one["act_ms"] > 0 for one in found.values())


def test_updates_on_the_cpu_are_those_on_the_cpu(bench):
    kept, out = bench("parity", "--device", "cpu")
    full, tf32, bfloat16 = kept["parity"]["rows"]
    assert (full["largest"], tf32["largest"]) == (0.0, 0.0)
    assert 0 < bfloat16["of the way"] < 1
    assert "3 updates on cpu" in out


def test_captured_updates_on_the_cpu_are_the_plain_ones(bench):
    kept, out = bench("graphs", "--device", "cpu", "--repeats", "1")
    found = kept["graphs"]
    assert {(row["replayed"], row["plain"], row["generators"]) for row in found["equal"]} == {(0.0, 0.0, True)}
    assert [row["captured"] for row in found["equal"][:5]] == [1, 1, 2, 2, 3]
    assert [row["updates"] for row in found["rates"]] == ["plain", "static tensors", "replayed"] * 2
    assert all(row["per second"] > 0 for row in found["rates"])
    assert "graphs: updates per second, cpu" in out


def test_gpu_gives_every_stage_its_limit(bench, monkeypatch):
    """A stage that ends, one that takes too long, and one for which no time is left."""
    gpu = importlib.import_module("benchmarks.measurements.gpu")
    stages = (gpu.Stage("parity", 300), gpu.Stage("end_to_end", 0.5), gpu.Stage("learner", 0))
    monkeypatch.setattr(gpu, "STAGES", stages)
    kept, _ = bench("gpu", "--device", "cpu")
    found = kept["gpu"]
    assert found["parity"]["ended"] == "exit code 0"
    assert len(found["parity"]["rows"]) == 3
    assert found["end_to_end"] == {"ended": "not within 0 s"}
    assert found["learner"] == {"ended": "no time"}
    assert "hours" not in found


def test_gpu_extrapolates_from_both_replay_ratios():
    """5/9 of two million frames at 1000 a second and 4/9 at 2000: 1111 + 444 seconds."""
    gpu = importlib.import_module("benchmarks.measurements.gpu")
    rows = [{"name": gpu.LOW, "median": 2000.0}, {"name": gpu.HIGH, "median": 1000.0}, {"name": "other", "median": 1.0}]
    assert gpu.extrapolated({"rows": rows}) == {gpu.HIGH: pytest.approx((1111.11 + 444.44) / 3600, rel=1e-4)}
    assert gpu.extrapolated({"ended": "no time"}) == {}


def test_a_folder_for_a_machine_without_network_leaves_out_what_is_there(tmp_path):
    """TorchRL's own parts are needed, torch's are there; a slim wheel lists what it holds."""
    offline = importlib.import_module("benchmarks.offline")
    there = offline.needed(offline.THERE)
    assert {"torch", "lightning", "numpy"} <= there
    needed = offline.needed(["plasticity-rl"], there)
    assert {"torchrl", "tensordict", "dm-control", "mujoco", "docstring-parser"} <= needed  # the last by an extra
    assert not needed & there
    wheel = tmp_path / "dm_control-1-py3-none-any.whl"
    record = "dm_control/suite/walker.py,,\ndm_control/locomotion/soccer.py,,\n"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("dm_control/suite/walker.py", "kept")
        file.writestr("dm_control/locomotion/soccer.py", "left out")
        file.writestr("dm_control-1.dist-info/RECORD", record)
    offline.slim(wheel, slim := tmp_path / "slim.whl")
    with zipfile.ZipFile(slim) as file:
        assert file.namelist() == ["dm_control/suite/walker.py", "dm_control-1.dist-info/RECORD"]
        assert file.read("dm_control-1.dist-info/RECORD") == b"dm_control/suite/walker.py,,\n"


class Told:
    """Answers, until it is told to end while it works on an answer."""

    def __init__(self, answers: int) -> None:
        self.left = answers

    def ask(self, **request: Any) -> dict[str, Any]:
        if not self.left:
            raise SystemExit(143)
        self.left -= 1
        return {"left": self.left}


def test_what_whole_rounds_have_measured_is_kept_when_the_time_is_up():
    contest = importlib.import_module("benchmarks.harness.contest")

    def lanes(answers: int) -> list[Any]:
        return [contest.Lane("one", Told(9), {}), contest.Lane("two", Told(answers), {})]

    answers = contest.interleave(lanes(2), 5, stoppable=True)
    assert {name: len(turns) for name, turns in answers.items()} == {"one": 2, "two": 2}
    for answers_of_two, stoppable in ((0, True), (2, False)):
        with pytest.raises(SystemExit):
            contest.interleave(lanes(answers_of_two), 5, stoppable=stoppable)


def test_callbacks(bench):
    kept, _ = bench("callbacks", "--units", "2", "--only", "ReDo", "PlasticityInjection")
    found = kept["callbacks"]
    assert not found["failed"]
    events = {row["name"]: (row["period_updates"], row["event_ms"] is not None) for row in found["rows"]}
    again = "no intervention, again"
    assert events == {again: (None, False), "ReDo": (1000, True), "PlasticityInjection": (None, False)}
    rounds = len(found["rows"][0]["ms_by_round"])
    assert rounds
    assert all(row["num_updates"] == 2 * rounds for row in found["rows"])


def test_what_is_given_to_contestants_are_all_variables_that_choose_threads(monkeypatch):
    """Those of a run that chose by itself: one with the same variables chooses the same, also for large updates."""
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", cores.CHOOSE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cores, "available_cores", lambda: 2)
    cores.start_with_one()
    given = importlib.import_module("benchmarks.harness.contest").settings_of(os.environ)
    chosen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    for name in given:
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    cores.start_with_one()
    cores.use_more_for_large_updates(lambda: 24e9)
    assert chosen == [2]


def test_the_error_is_what_runs_seem_to_add_that_add_nothing():
    measured = importlib.import_module("benchmarks.measurements.callbacks")
    rows = [
        {"name": measured.AGAIN, "percent": 3.0},
        {"name": "ReDo", "percent": -1.0},
        {"name": "CURL", "percent": 90.0},
    ]
    assert measured.error_of(rows) == pytest.approx(1.96 * 5**0.5)
    assert set(measured.EQUAL) <= {name for name in measured.interventions() if measured.period(name)}


def test_callbacks_measures_every_intervention():
    """Each from its own file, and what is left out has a reason; the period is the file's, in updates."""
    measured = importlib.import_module("benchmarks.measurements.callbacks")
    everything = {name for name in callbacks.__all__ if issubclass(getattr(callbacks, name), Intervention)}
    assert set(measured.interventions()) | set(measured.LEFT_OUT) == everything
    assert all(measured.settings(name) for name in measured.interventions())
    assert measured.period("Reset") == ("every_n_frames", 75_000)  # 300 000 frames, 4 to an update
    assert measured.with_events("Reset")[0]["init_args"]["every_n_frames"] == 4
