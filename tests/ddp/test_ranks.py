"""Two ranks on the CPU (gloo): equal weights, the same as one rank, exact resume, and one error when one fails."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import TINY, checkpoint, fit_tiny_cli, tree
from helpers import fit_tiny, tiny_data, tiny_dqn
from rank_job import FINAL, HALF_RANDOM, clipped_batches, equal_batches, example, penalty, several
from run_state import differences, fingerprint

import callbacks
from plasticity_rl import Intervention, UserError
from plasticity_rl.data.evaluation import play_episode
from plasticity_rl.rng import derive_seed

TESTS = Path(__file__).parents[1]
# Processes of torch take long to start on a busy machine; what most tests look at is one job of two of them.
pytestmark = pytest.mark.timeout(900)
OF_A_RANK = {"replay", "generators", "checkpoint", "callbacks", "metrics"}
"""Parts of a run's state in which ranks differ: their own environments, batches and random numbers."""


def start(*command: str | Path, seconds: int = 800) -> subprocess.CompletedProcess[str]:
    """Run a command of two ranks to its end; it starts the second one itself."""
    paths = [str(TESTS / "support"), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    environment = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "WORLD_SIZE", "PL_GLOBAL_SEED")}
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-W", "ignore", *map(str, command)]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=seconds, env=environment)


def job(folder: Path, part: str, *words: str, seconds: int = 800) -> list[dict[str, Any]]:
    process = start(TESTS / "support" / "rank_job.py", folder, part, *words, seconds=seconds)
    assert process.returncode == 0, process.stderr[-3000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def assert_close(halves: dict[str, torch.Tensor], whole: dict[str, torch.Tensor], run: str = "") -> None:
    for name, value in whole.items():
        torch.testing.assert_close(
            halves[name], value, rtol=1e-5, atol=1e-6, msg=lambda message, n=name: f"{run} {n}: {message}"
        )


@pytest.fixture(scope="module")
def job_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def ranks(job_folder) -> list[dict[str, Any]]:
    """What both ranks of one job found (starting processes is what costs)."""
    return job(job_folder, "main")


def test_two_ranks_with_half_batches_equal_one_with_whole_batches(ranks, job_folder, tmp_path):
    two = torch.load(job_folder / "equal.pt", weights_only=True)
    one = equal_batches(tmp_path, penalty())
    assert two["updates"] == one.num_updates >= 5
    start = fit_tiny(tmp_path / "start", max_frames=40).state_dict()
    assert any(not torch.equal(value, start[name]) for name, value in one.state_dict().items())
    assert_close(two["weights"], one.state_dict())


def test_the_gradient_of_the_whole_batch_is_clipped(ranks, job_folder, tmp_path):
    two = torch.load(job_folder / "equal.pt", weights_only=True)
    one = clipped_batches(tmp_path)
    assert one.num_updates >= 5
    assert_close(two["clipped"], one.state_dict())


def test_ranks_hold_the_same_agent_and_experience_of_their_own(ranks):
    first, second = (rank["straight"]["state"] for rank in ranks)
    shared = {key for key in first if key not in OF_A_RANK}
    assert differences({k: first[k] for k in shared}, {k: second[k] for k in shared}) == []
    assert first["replay"]["records"] != second["replay"]["records"]


def test_gradients_are_averaged_where_any_rank_has_one(ranks):
    """([1, 2] + [3, 4]) / 2; [4, -6] / 2 where rank 1 has none; nothing where no rank has any."""
    assert [rank["averaged"] for rank in ranks] == [[[2.0, 3.0], [2.0, -3.0], None]] * 2


def test_clocks_and_batch_count_all_ranks(ranks):
    """200 frames of action repeat 2 are 100 env steps, 50 of each rank; 2 episodes of 20 steps have a last frame."""
    for rank in ranks:
        facts = rank["straight"]["facts"]
        assert (facts["frames"], facts["env_steps"], facts["batch"]) == (200, 100, 4)
        assert facts["written"] == [50 + 2]
        assert [frame for frame, _ in facts["returns"]] == [0, 100, 200]


def test_ranks_share_the_episodes_after_training_and_log_the_mean_of_all(ranks, job_folder):
    """Played again one after the other, by the weights of the checkpoint: half of the actions are random draws.

    The first of each rank's list is the evaluation of the last frame, of one episode: of rank 0.
    """
    assert [rank["final"]["episodes"] for rank in ranks] == [[0, 0, 2, 4], [1, 3]]
    data = tiny_data(**FINAL)
    agent = tiny_dqn(data, **HALF_RANDOM)
    agent.load_state_dict(checkpoint(job_folder / "final")["state_dict"])
    played = []
    for episode in range(5):
        agent.begin_evaluation_episode(episode)
        seed = derive_seed(1, f"eval/{episode}") % 2**32
        played.append(play_episode(data.eval_env("tiny_discrete"), lambda seen: agent.act(seen, explore=False), seed))
    returns = torch.tensor([one.episode_return for one in played], dtype=torch.float64)
    assert returns.std() > 0
    for rank in ranks:
        (logged,) = rank["final"]["logged"]
        assert logged.pop("frame") == 100
        assert logged == {
            "final/return": pytest.approx(returns.mean().item()),
            "final/return_std": pytest.approx(returns.std(correction=0).item()),
            "final/episode_steps": 20.0,
        }


def test_observations_are_normalised_by_those_of_all_ranks(ranks):
    """Mean and variance of both ranks' rows together, the same to the last bit on both, and so the weights."""
    first, second = (rank["observed"] for rank in ranks)
    assert first["rows"] != second["rows"]
    assert first["statistics"] == second["statistics"]
    assert differences(first["weights"], second["weights"]) == []
    rows = torch.tensor(first["rows"] + second["rows"], dtype=torch.float64)
    assert len(rows) == 60
    found = first["statistics"]
    assert found["critic_target.Q2.observations.count"] == pytest.approx(60.0001)
    torch.testing.assert_close(
        torch.tensor(found["actor.policy.observations.mean"]).double(), rows.mean(0), rtol=1e-4, atol=1e-5
    )
    variance = torch.tensor(found["actor.policy.observations.var"]).double()
    torch.testing.assert_close(variance, rows.var(0, correction=0), rtol=1e-4, atol=1e-5)


def test_adaptive_replay_ratio_switches_at_the_same_update(ranks):
    """Both ranks' episodes end at frame 80, in the tick of update (80 - 40) / 2 * 0.5 = 10, before that update."""
    assert [rank["straight"]["ratios"] for rank in ranks] == [[[1, 0.5], [10, 1.0]]] * 2


def test_resume_with_two_ranks_is_exact(ranks):
    for rank in ranks:
        assert differences(rank["straight"]["state"], rank["resumed"]["state"]) == []
        assert rank["straight"]["facts"] == rank["resumed"]["facts"]


def test_another_number_of_ranks_is_refused(ranks, job_folder):
    with pytest.raises(UserError, match="written by 2 ranks, but this run has 1"):
        fit_tiny(
            job_folder / "stopped",
            callbacks=several(),
            ckpt_path="last",
            data_options={"num_eval_episodes": 3, "capacity": 80},
        )


def test_the_command_line_says_so_in_one_line(tmp_path):
    fit_tiny_cli(tmp_path / "run", max_frames=100)
    before = tree(tmp_path)
    process = start(
        *("-m", "plasticity_rl", "fit", *TINY, "--max_frames=200", "--trainer.devices=2", "--trainer.strategy=ddp"),
        *(f"--trainer.default_root_dir={tmp_path / 'run'}", "--ckpt_path=last"),
    )
    assert process.returncode == 2, process.stderr[-2000:]
    loading, line = process.stderr.splitlines()
    assert loading.endswith("...")
    assert line.startswith(
        "error: the checkpoint was written by 1 rank, but this run has 2: resume with trainer.devices"
    )
    assert tree(tmp_path) == before


def test_a_failing_rank_ends_the_run_with_its_error(tmp_path):
    process = start(
        *("-m", "plasticity_rl", "fit", *TINY, "--max_frames=4000", "--trainer.devices=2"),
        *(f"--trainer.default_root_dir={tmp_path}", "--trainer.callbacks+=fail_on_rank.FailOnRank"),
    )
    assert process.returncode == 2, process.stderr[-2000:]
    errors = [line for line in process.stderr.splitlines() if line.startswith("error:")]
    assert errors[0] == "error: the sun went down"
    assert errors[1:] == ["error: rank 1 ended with exit code 2; all ranks end, and its own error stands above"]
    assert "Traceback" not in process.stderr


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of all processes that were given this run folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes().decode(errors="replace"))
    return [line for line in found if str(folder) in line]


@pytest.mark.slow
def test_first_rank_killed_ends_the_other_and_resumes_exactly(tmp_path):
    """Killed in mid-epoch at frame 160, resumed from 100: the same weights, moments and generators of both ranks."""
    fit = ["-m", "plasticity_rl", "fit", *TINY, "--max_frames=300", "--trainer.devices=2"]
    straight, killed = (f"--trainer.default_root_dir={tmp_path / name}" for name in ("straight", "killed"))
    kill = "--trainer.callbacks+=fail_on_rank.FailOnRank --trainer.callbacks.rank=0 --trainer.callbacks.signum=9"
    assert start(*fit, straight).returncode == 0
    assert start(*fit, killed, *kill.split(), "--trainer.callbacks.frame=160").returncode == -signal.SIGKILL
    until = time.monotonic() + 120
    while processes_of(tmp_path / "killed") and time.monotonic() < until:
        time.sleep(0.2)
    assert processes_of(tmp_path / "killed") == []
    resumed = start(*fit, killed, "--ckpt_path=last", "--trainer.callbacks=null")
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert run_differences(tmp_path / "straight", tmp_path / "killed") == []


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all_after_the_same_step_and_the_run_goes_on_exactly(tmp_path):
    fit = ["-m", "plasticity_rl", "fit", *TINY, "--max_frames=300", "--trainer.devices=2"]
    straight, stopped = (f"--trainer.default_root_dir={tmp_path / name}" for name in ("straight", "stopped"))
    term = f"--trainer.callbacks+=fail_on_rank.FailOnRank --trainer.callbacks.signum={int(signal.SIGTERM)}"
    assert start(*fit, straight).returncode == 0
    process = start(*fit, stopped, *term.split(), "--trainer.callbacks.frame=160")
    assert process.returncode == 128 + signal.SIGTERM, process.stderr[-2000:]
    assert "Stopped by SIGTERM at env frame 160; the last checkpoint is" in process.stdout
    assert [line for line in process.stderr.splitlines() if line.startswith(("error", "Traceback"))] == []
    assert checkpoint(tmp_path / "stopped")["rl"]["env_frames"] == 160
    assert start(*fit, stopped, "--ckpt_path=last", "--trainer.callbacks=null").returncode == 0
    assert run_differences(tmp_path / "straight", tmp_path / "stopped") == []


def run_differences(first: Path, second: Path) -> list[str]:
    """Return in what the last checkpoints of two runs differ."""
    one, two = (fingerprint(checkpoint(folder)) for folder in (first, second))
    parts = ("state_dict", "optimizer_states", "rl", "RLDataModule", "other_ranks")
    different = [d for part in parts for d in differences(one[part], two[part], part)]
    # Which files these are, and which start wrote last, is no part of what the run is.
    return [d for d in different if not re.search("replay/storage/(run|session): ", d)]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ranks_stay_equal_under_every_callback(tmp_path):
    first, second = job(tmp_path, "callbacks", seconds=1100)
    for name in callbacks.__all__:
        assert differences(first[name], second[name]) == [], name


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_resume_with_two_ranks_is_exact_under_every_callback(tmp_path):
    for rank in job(tmp_path, "resumes", seconds=3500):
        assert {name: rank[name] for name in callbacks.__all__ if rank[name]} == {}


NOT_OF_HALVES = {"CURL": "the negatives of a row are the other rows of its rank's batch: fewer in a half"}


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_halves_equal_the_whole_under_every_intervention(tmp_path):
    """On the same batches, with two environments in both cases; a donor's replay is not read here."""
    interventions = [n for n in callbacks.__all__ if issubclass(getattr(callbacks, n), Intervention)]
    tried = sorted(set(interventions) - set(NOT_OF_HALVES))
    job(tmp_path, "halves", *tried, seconds=1600)
    two = torch.load(tmp_path / "halves.pt", weights_only=True)
    for name in tried:
        one = equal_batches(tmp_path / "one" / name, example(name, tmp_path / "donor"))
        assert_close(two[name], one.state_dict(), name)
