"""FrameReplay goes on exactly where a checkpoint was made."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import naive_replay
import pytest
import torch
from naive_replay import Episodes, NaiveReplay, assert_batch_is_naive, assert_same_batch, make, run, through_file
from tensordict import TensorDict

from plasticity_rl.errors import UserError


@pytest.mark.parametrize("storage", ["ram", "memmap"])
@pytest.mark.parametrize("resumed", ["ram", "memmap"])
@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("steps", [5, 31, 200])
def test_kill_and_resume_is_exact_over_several_rounds(storage, resumed, lanes, steps, tmp_path):
    options: dict[str, Any] = {"num_lanes": lanes, "slack": 40}
    twin, twin_episodes = make(**options), Episodes(lanes, 3)
    replay, episodes = make(**options, storage=storage, folder=tmp_path), Episodes(lanes, 3)
    for kind in (resumed, storage, resumed):
        for one, two in zip(run(replay, episodes, steps), run(twin, twin_episodes, steps), strict=True):
            assert_same_batch(one, two)
        replay.flush()
        state = through_file(replay.state_dict())
        lost = Episodes(lanes, 3, seed=99)  # written after the checkpoint, by a run that is then killed
        run(replay, lost, 15)
        replay = make(**options, storage=kind, folder=tmp_path, seed=77)
        replay.load_state_dict(state)
        assert replay.num_transitions == twin.num_transitions
    for one, two in zip(run(replay, episodes, 40), run(twin, twin_episodes, 40), strict=True):
        assert_same_batch(one, two)


def test_resume_before_the_first_write(tmp_path):
    for storage in ("ram", "memmap"):
        first = make(storage=storage, folder=tmp_path / storage, slack=20)
        state = through_file(first.state_dict())
        assert not (tmp_path / storage).exists()
        run(first, Episodes(1, 3), 10)
        first.flush()
        second, twin = make(storage=storage, folder=tmp_path / storage, slack=20), make()
        second.load_state_dict(state)
        for one, two in zip(run(second, Episodes(1, 3), 30), run(twin, Episodes(1, 3), 30), strict=True):
            assert_same_batch(one, two)


def test_state_is_small_and_flushes_what_was_forgotten(tmp_path):
    replay = make(folder=tmp_path, capacity=5000)
    run(replay, Episodes(1, 3), 100)
    state = replay.state_dict()  # no flush() before
    file = io.BytesIO()
    torch.save(state, file)
    assert file.tell() < 20_000
    again = make(folder=tmp_path, capacity=5000)
    again.load_state_dict(state)
    assert_same_batch(again.sample(), replay.sample())


def test_batch_size_and_n_step_may_change_when_resuming(tmp_path):
    replay, episodes, naive = make(folder=tmp_path, slack=9), Episodes(1, 3), NaiveReplay(1, 60, 3, 5, 0.9)
    for _ in range(100):
        step = episodes.step()
        replay.write(step)
        naive.write(step)
    again = make(folder=tmp_path, slack=9, n_step=5, batch_size=8, discount=0.9)
    again.load_state_dict(replay.state_dict())
    batch = again.sample()
    assert batch.batch_size == (8,)
    assert_batch_is_naive(batch, naive)


@pytest.mark.parametrize("storage", ["ram", "memmap"])
def test_slack_is_enough_to_the_last_record_and_not_beyond(storage, tmp_path):
    replay, episodes = make(storage=storage, folder=tmp_path, slack=5), Episodes(1, 3, longest=1)
    episodes.left, episodes.frames = [1000], [[episodes._frame()]]
    run(replay, episodes, 150)
    state = replay.state_dict()
    wanted = [replay.sample().clone() for _ in range(5)]
    for _ in range(5):
        replay.write(episodes.step())
    replay.flush()
    again = make(storage=storage, folder=tmp_path, slack=5)
    again.load_state_dict(state)
    for batch in wanted:
        assert_same_batch(again.sample(), batch)
    replay.write(episodes.step())
    replay.flush()
    with pytest.raises(UserError, match=r"6 records per lane .* slack of 5.*newer checkpoint"):
        make(storage=storage, folder=tmp_path, slack=5).load_state_dict(state)


def test_ram_data_that_was_never_flushed_costs_no_slack(tmp_path):
    replay = make(folder=tmp_path, slack=0)
    run(replay, Episodes(1, 3), 100)
    state = replay.state_dict()
    wanted = replay.sample().clone()
    run(replay, Episodes(1, 3, seed=5), 300)
    again = make(folder=tmp_path, slack=0)
    again.load_state_dict(state)
    assert_same_batch(again.sample(), wanted)


def test_a_checkpoint_of_an_abandoned_branch_is_refused(tmp_path):
    options: dict[str, Any] = {"storage": "memmap", "folder": tmp_path, "slack": 100}
    replay, episodes = make(**options), Episodes(1, 3)
    run(replay, episodes, 50)
    old = replay.state_dict()
    run(replay, episodes, 20)
    new = replay.state_dict()
    make(**options).load_state_dict(new)  # only reading changes nothing
    branch = make(**options)
    branch.load_state_dict(old)
    make(**options).load_state_dict(new)
    run(branch, Episodes(1, 3, seed=4), 1)  # now records that `new` needs are replaced
    with pytest.raises(UserError, match="continued from an earlier checkpoint"):
        make(**options).load_state_dict(new)
    make(**options).load_state_dict(old)
    make(**options).load_state_dict(branch.state_dict())


def test_an_older_checkpoint_is_refused_for_what_an_abandoned_branch_overwrote(tmp_path):
    options: dict[str, Any] = {"storage": "memmap", "folder": tmp_path, "slack": 25}
    replay, episodes = make(**options), Episodes(1, 3, longest=1)
    episodes.left, episodes.frames = [1000], [[episodes._frame()]]
    run(replay, episodes, 100)
    older = replay.state_dict()
    run(replay, episodes, 10)
    newer = replay.state_dict()
    run(replay, episodes, 20)  # killed here, 30 records after `older`, 20 after `newer`
    again = make(**options)
    again.load_state_dict(newer)
    run(again, episodes, 1)
    with pytest.raises(UserError, match="30 records per lane"):
        make(**options).load_state_dict(older)


def test_flush_copies_only_new_records(tmp_path):
    replay, episodes = make(folder=tmp_path, slack=10), Episodes(1, 3)
    run(replay, episodes, 30)
    assert replay.flush() == int(replay.written)
    assert replay.flush() == 0
    before = int(replay.written)
    run(replay, episodes, 7)
    assert replay.flush() == int(replay.written) - before
    run(replay, episodes, 500)
    assert replay.flush() == 70  # all slots, once


def test_ram_flush_writes_only_the_new_slots(tmp_path):
    replay, episodes = make(folder=tmp_path), Episodes(1, 3)
    run(replay, episodes, 10)
    replay.flush()
    done = int(replay.written)
    pixels = TensorDict.load_memmap(tmp_path / "records")["pixels"]
    pixels[:done] = 123  # whatever is old must not be written again
    run(replay, episodes, 5)
    replay.flush()
    pixels = TensorDict.load_memmap(tmp_path / "records")["pixels"]
    assert (pixels[:done] == 123).all()
    assert not (pixels[done : int(replay.written)] == 123).all()


def test_killed_process_loses_nothing_that_memmap_wrote(tmp_path):
    """A real SIGKILL, right after the last write, without any flush after the checkpoint."""
    code = f"""
import os, signal, sys, torch
sys.path[:0] = [{str(Path(naive_replay.__file__).parent)!r}]
from naive_replay import Episodes, make, run
replay, episodes = make(storage="memmap", folder={str(tmp_path / "replay")!r}, slack=30), Episodes(1, 3)
run(replay, episodes, 150)
torch.save(replay.state_dict(), {str(tmp_path / "state.pt")!r})
run(replay, episodes, 20)
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False, timeout=250)
    twin, episodes = make(slack=30), Episodes(1, 3)
    run(twin, episodes, 150)
    replay = make(storage="memmap", folder=tmp_path / "replay", slack=30)
    replay.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    replay_episodes = Episodes(1, 3)
    run(make(), replay_episodes, 150)
    for one, two in zip(run(replay, replay_episodes, 60), run(twin, episodes, 60), strict=True):
        assert_same_batch(one, two)
