"""Environments in worker processes: the numbers of one process, snapshots, and what comes of those that fail."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import REPOSITORY
from tiny_env import make_tiny_env
from torchrl.envs import EnvBase
from worker_envs import make_failing_env, make_globally_random_env

from plasticity_rl import make_env
from plasticity_rl.envs import worker_process
from plasticity_rl.envs.several import SeveralEnvs
from plasticity_rl.envs.side_by_side import EnvsSideBySide, shared_out
from plasticity_rl.envs.snapshots import env_state_dict, load_env_state_dict, why_not_exact
from plasticity_rl.envs.worker_process import WorkerFailed
from plasticity_rl.errors import RunFailure, UserError

SEEDS = [4, 5, 6]


def beside(build: Any, seeds: list[int], num_workers: int) -> EnvsSideBySide:
    return EnvsSideBySide(build, seeds, num_workers, build(seed=0))


def chosen(env: EnvBase, step: int) -> torch.Tensor:
    """Return actions that depend on the number of the step, not on who asks."""
    generator = torch.Generator().manual_seed(step)
    if not env.action_spec.dtype.is_floating_point:
        return torch.randint(0, 3, env.action_spec.shape, generator=generator)
    return torch.rand(env.action_spec.shape, generator=generator) * 2 - 1


def play(env: EnvBase, steps: range, carrier: Any = None) -> tuple[list[dict[str, torch.Tensor]], Any]:
    """Step and reset what ends; return copies of all that was shown, and what the next step starts from."""
    carrier, seen = env.reset() if carrier is None else carrier, []
    for i in steps:
        step, carrier = env.step_and_maybe_reset(carrier.set("action", chosen(env, i)))
        shown = {**{f"next/{k}": v for k, v in step["next"].items()}, **{f"root/{k}": v for k, v in carrier.items()}}
        seen.append({key: value.clone() for key, value in shown.items()})
    return seen, carrier


def assert_same(one: list[dict[str, torch.Tensor]], two: list[dict[str, torch.Tensor]]) -> None:
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        assert [key for key in a if not torch.equal(a[key], b[key])] == []


def alive(pids: list[int]) -> list[int]:
    """Return which processes there still are, those that nobody has waited for left out."""
    found = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        found += [pid] * (state != "Z")
    return found


def gone(pids: list[int], within: float = 60.0) -> bool:
    until = time.monotonic() + within
    while alive(pids) and time.monotonic() < until:
        time.sleep(0.05)
    return not alive(pids)


def pids(env: EnvsSideBySide) -> list[int]:
    return [worker.process.pid for worker in env._workers]


@pytest.mark.parametrize(
    ("num_envs", "num_workers", "expected"),
    [(1, 1, [[0]]), (4, 2, [[0, 1], [2, 3]]), (5, 3, [[0, 1], [2, 3], [4]]), (3, 3, [[0], [1], [2]])],
)
def test_environments_are_shared_out_evenly_and_in_order(num_envs, num_workers, expected):
    assert [list(rows) for rows in shared_out(num_envs, num_workers)] == expected


# ---- numbers ---------------------------------------------------------------------------------------------------------


def test_the_numbers_are_those_of_one_process_also_from_a_snapshot_in_mid_episode():
    """45 steps of episodes of 20, reset in the middle once by hand; two workers share three environments."""
    here = SeveralEnvs(partial(make_tiny_env), SEEDS, "tiny", 2)
    there = beside(make_tiny_env, SEEDS, 2)
    try:
        assert there.batch_size == here.batch_size
        assert there.observation_spec["pixels"].shape == here.observation_spec["pixels"].shape
        assert (there.task_name, why_not_exact(there)) == ("tiny", "")
        assert len(pids(there)) == 2
        seen, carriers = zip(*(play(env, range(30)) for env in (here, there)), strict=True)
        assert_same(*seen)
        assert sum(int(one["next/done"].sum()) for one in seen[0]) == 3
        snapshots = [env_state_dict(env) for env in (here, there)]
        went_on = [play(env, range(30, 45), now.clone())[0] for env, now in zip((here, there), carriers, strict=True)]
        assert_same(*went_on)
        # Back to frame 30, each from the snapshot of the other.
        for env, snapshot in zip((there, here), snapshots, strict=True):
            load_env_state_dict(env, snapshot)
            assert_same(play(env, range(30, 45), carriers[0].clone())[0], went_on[0])
        for env in (here, there):
            assert env.set_seed(7) == 10
        asked = [
            env.reset(env.reset().select().set("_reset", torch.tensor([[False], [True], [True]])) if i else None)
            for i in range(2)
            for env in (here, there)
        ]
        assert torch.equal(asked[0]["pixels"], asked[1]["pixels"])
        one, two = (env.step(env.reset().set("action", chosen(env, 0)))["next"] for env in (here, there))
        assert torch.equal(one["pixels"], two["pixels"])
        assert torch.equal(one["reward"], two["reward"])
        given = there.reset().set("action", chosen(there, 0))
        there.begin(given)
        with pytest.raises(AssertionError, match="a step was begun"):
            env_state_dict(there)
        assert there.step_and_maybe_reset(given)[0]["next", "pixels"].any()
        with pytest.raises(UserError, match=r"holds 2 environments, this run has num_envs=3"):
            load_env_state_dict(there, {"envs": snapshots[0]["envs"][:2]})
    finally:
        before = pids(there)
        there.close()
    there.close()
    assert gone(before)
    with pytest.raises(RuntimeError, match="closed"):
        there.reset()


def test_global_generators_belong_to_an_environment_not_to_a_process():
    """What an environment draws does not depend on how many share its process, nor on a snapshot in between."""
    by_workers = []
    for num_workers in (1, 2):
        env = beside(make_globally_random_env, SEEDS, num_workers)
        first, carrier = play(env, range(7))
        snapshot, carrier = env_state_dict(env), carrier.clone()
        second, _ = play(env, range(7, 14), carrier)
        load_env_state_dict(env, snapshot)
        assert_same(play(env, range(7, 14), carrier)[0], second)
        by_workers.append(first + second)
        env.close()
    assert_same(*by_workers)
    rewards = torch.stack([one["next/reward"] for one in by_workers[0]])
    assert len(rewards.unique()) == rewards.numel()


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("cartpole_swingup", {"image_size": 24, "action_repeat": 100}),
        ("atari:freeway", {"image_size": 42, "max_episode_frames": 40, "sticky": 0.25}),
    ],
)
def test_real_environments(task, options):
    """A worker for each of two; episodes of 10 env steps."""
    if task.startswith("atari"):
        pytest.importorskip("ale_py")
    build = partial(make_env, task, **options)
    here, there = SeveralEnvs(build, [1, 2], task, options.get("action_repeat", 4)), beside(build, [1, 2], 2)
    try:
        seen, (now, carrier) = zip(*(play(env, range(13)) for env in (here, there)), strict=True)
        assert_same(*seen)
        assert seen[0][9]["next/done"].all()
        load_env_state_dict(there, env_state_dict(here))
        assert_same(play(here, range(13, 18), now)[0], play(there, range(13, 18), carrier)[0])
    finally:
        here.close()
        there.close()


# ---- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "num_workers", "says"),
    [
        ("error", 2, r"^OSError: the simulator is gone, in environment 1 \(worker 0 of 2, process \d+\)$"),
        (
            "SIGKILL",
            1,
            r"^environment 1 \(worker 0 .*\) was ended by SIGKILL, as the system does when memory runs out$",
        ),
        ("SIGSEGV", 1, r"^environment 1 \(worker 0 of 1, process \d+\) was ended by SIGSEGV$"),
        ("exit", 1, r"^environment 1 \(worker 0 of 1, process \d+\) ended with exit code 3$"),
        ("hang", 1, r"^environment 1 \(worker 0 of 1, .*\) gave no answer for 1 s; if it hangs .* use fewer"),
    ],
    ids=["error", "SIGKILL", "SIGSEGV", "exit", "hang"],
)
def test_a_worker_that_fails_is_named_with_its_environment_and_none_is_left(kind, num_workers, says, monkeypatch):
    env = beside(partial(make_failing_env, kind=kind), [0, 1, 2], num_workers)
    monkeypatch.setattr(worker_process, "SECONDS_TO_ANSWER", 1 if kind == "hang" else 100)
    before = pids(env)
    with pytest.raises(WorkerFailed, match=says) as failure:
        play(env, range(5))
    assert not alive(before)
    if kind == "error":
        assert "and more lines about it" in str(failure.value.__cause__)
    env.close()


def test_what_does_not_start_says_so(monkeypatch):
    built, held = make_tiny_env(seed=0), threading.Lock()
    with pytest.raises(UserError, match=r"^.*data\.env cannot be sent to another process \(TypeError: .*lock"):
        EnvsSideBySide(lambda seed: (built, held), [0], 1, built)
    with pytest.raises(UserError, match="image_size"):  # as it is said in this process
        EnvsSideBySide(partial(make_env, "cartpole_swingup", image_size=-1), [0], 1, built)
    monkeypatch.setattr(worker_process, "SECONDS_TO_START", 0)
    with pytest.raises(RunFailure, match=r"environment 0 \(worker 0 of 1, .* gave no answer for 0 s.*, at the start$"):
        EnvsSideBySide(make_tiny_env, [0], 1, built)


SCRIPT = """
import os, signal, sys, time
sys.path.insert(0, {support!r})
from tiny_env import make_tiny_env
from plasticity_rl.envs.side_by_side import EnvsSideBySide

def build(seed):
    env = make_tiny_env(seed=seed)
    if seed == 1:
        env.base_env._step = lambda tensordict: time.sleep(1000)
    return env

env = EnvsSideBySide(build, [0, 1], 2, make_tiny_env(seed=0))
for worker in env._workers:
    maps = open(f"/proc/{{worker.process.pid}}/maps").read()
    print(worker.process.pid, "memfd:plasticity_rl" in maps, "/dev/shm" in maps, flush=True)
env.begin(env.reset().set("action", env.action_spec.zero()))
time.sleep(0.5)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and elsewhere a worker in a step is not killed")
def test_a_parent_that_is_killed_leaves_nothing_behind(tmp_path):
    """A script without a guard of ``__main__``, whose factory is its own; one worker waits, one is in a step."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(support=str(REPOSITORY / "tests" / "support")))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == -signal.SIGKILL, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[1:] for row in rows] == [["True", "False"]] * 2
    assert gone([int(row[0]) for row in rows], within=30)
    assert "Traceback" not in done.stderr


def test_time_in_which_nobody_ran_is_not_waiting():
    """Ctrl-Z stops all processes of a run: a wait of an hour that ends with an answer is none."""

    class Slow:
        hours = [False, False, True]
        late = staticmethod(lambda seconds: TimeoutError(seconds))
        receive = staticmethod(lambda: "answer")

        def has_answered(self, within_seconds: int) -> bool:
            assert within_seconds == 1
            return self.hours.pop(0)

    assert worker_process.answers([Slow()], 3) == ["answer"]
    Slow.hours = [False, False, True]
    with pytest.raises(TimeoutError, match="2"):
        worker_process.answers([Slow()], 2)


@pytest.mark.parametrize(("cores", "count", "threads"), [(2, 2, "0"), (2, 1, "2"), (8, 3, "2"), (4, 8, "0")])
def test_workers_share_the_threads_that_draw(cores, count, threads, monkeypatch):
    """0 draws in the worker's own thread; what the user has set counts."""
    monkeypatch.delenv("LP_NUM_THREADS", raising=False)
    monkeypatch.setattr(worker_process, "available_cores", lambda: cores)
    assert worker_process._variables(0, count)["LP_NUM_THREADS"] == threads
    monkeypatch.setenv("LP_NUM_THREADS", "5")
    assert worker_process._variables(0, count)["LP_NUM_THREADS"] == "5"


def test_the_workers_of_the_first_rank_draw_on_its_gpu(monkeypatch):
    """It has chosen no device, since Lightning says that it is a rank only when it starts the others."""
    monkeypatch.setattr(worker_process.glob, "glob", lambda pattern: ["/dev/nvidia0", "/dev/nvidia1"])
    monkeypatch.setenv("MUJOCO_GL", "egl")
    for name in ("MUJOCO_EGL_DEVICE_ID", "LOCAL_RANK", "WORLD_SIZE", "SLURM_LOCALID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    assert [worker_process._variables(index, 3)["MUJOCO_EGL_DEVICE_ID"] for index in range(3)] == ["0", "1", "0"]
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert [worker_process._variables(index, 3)["MUJOCO_EGL_DEVICE_ID"] for index in range(3)] == ["0", "0", "0"]
