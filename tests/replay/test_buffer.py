"""FrameReplay against a naive replay (python lists), its statistics, its files, and exact resume."""

from __future__ import annotations

import io
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.data.replay_buffers.samplers import Sampler
from torchrl.data.replay_buffers.storages import Storage
from torchrl.data.replay_buffers.writers import Writer

from plasticity_rl.errors import UserError
from plasticity_rl.machine.capacity import available_memory
from plasticity_rl.replay.buffer import FrameReplay, check_fits, replay_bytes

SIZE, ACTIONS, CHANNELS = 4, 2, 3


class Episodes:
    """Random episodes of several environments; every frame holds its own number, so nothing can be mistaken."""

    def __init__(self, lanes: int, stack: int, seed: int = 0, longest: int = 15) -> None:
        self.rng = np.random.default_rng(seed)
        self.lanes, self.stack, self.longest = lanes, stack, longest
        self.next_id = 0
        self.frames: list[list[np.ndarray]] = [[] for _ in range(lanes)]
        self.left = [0] * lanes

    def _frame(self) -> np.ndarray:
        self.next_id += 1
        frame = np.zeros((CHANNELS, SIZE, SIZE), np.uint8)
        frame[:, 0, :3] = [self.next_id % 256, self.next_id // 256 % 256, self.next_id // 65536]
        frame[:, 1, 0] = range(CHANNELS)
        return frame

    def _obs(self, frames: list[np.ndarray]) -> np.ndarray:
        first_padded = [frames[0]] * (self.stack - 1) + frames
        return np.concatenate(first_padded[-self.stack :])

    def step(self) -> TensorDict:
        rows = []
        for lane in range(self.lanes):
            if self.left[lane] == 0:
                self.left[lane] = int(self.rng.integers(1, self.longest + 1))
                self.frames[lane] = [self._frame()]
            obs = self._obs(self.frames[lane])
            self.frames[lane].append(self._frame())
            self.left[lane] -= 1
            done = self.left[lane] == 0
            terminated = done and self.rng.random() < 0.5
            rows.append(
                {
                    "pixels": torch.from_numpy(obs),
                    "action": torch.from_numpy(self.rng.standard_normal(ACTIONS).astype(np.float32)),
                    "next": {
                        "pixels": torch.from_numpy(self._obs(self.frames[lane])),
                        "reward": torch.tensor([self.rng.standard_normal()], dtype=torch.float32),
                        "discount": torch.tensor([0.0 if terminated else 1.0]),
                        "done": torch.tensor([done]),
                    },
                }
            )
        return torch.stack([TensorDict(row, []) for row in rows])


class NaiveReplay:
    """What FrameReplay promises, as slowly and plainly as possible: a list of records per lane."""

    def __init__(self, lanes: int, capacity: int, stack: int, n_step: int, discount: float = 0.99) -> None:
        self.length = math.ceil(capacity / lanes)
        self.stack, self.n_step, self.gamma = stack, n_step, np.float32(discount)
        self.lanes: list[list[dict[str, Any]]] = [[] for _ in range(lanes)]
        self.episode = [0] * lanes
        self.transitions = 0

    def write(self, step: TensorDict) -> None:
        for lane, (records, row) in enumerate(zip(self.lanes, step.unbind(0), strict=True)):
            frame = row["pixels"].numpy()[-CHANNELS:]
            nxt = row["next"]
            records.append(
                {
                    "episode": self.episode[lane],
                    "frame": frame,
                    "action": row["action"].numpy(),
                    "reward": nxt["reward"].numpy()[0],
                    "discount": nxt["discount"].numpy()[0],
                    "last": False,
                }
            )
            if nxt["done"].item():
                last = nxt["pixels"].numpy()[-CHANNELS:]
                records.append({"episode": self.episode[lane], "frame": last, "last": True})
                self.episode[lane] += 1

    def num_transitions(self) -> int:
        return sum(not record["last"] for records in self.lanes for record in records[-self.length :])

    def transitions_by_key(self) -> dict[bytes, dict[str, np.ndarray]]:
        """Every transition that may be sampled, by the bytes of its last observed frame and its action."""
        found = {}
        for records in self.lanes:
            oldest = max(0, len(records) - self.length)
            for anchor in range(oldest, len(records)):
                made = self._transition(records, oldest, anchor)
                if made is not None:
                    found[key_of(made["pixels"], made["action"])] = made
        return found

    def _transition(self, records: list[dict], oldest: int, anchor: int) -> dict[str, np.ndarray] | None:
        bootstrap = anchor + self.n_step
        if bootstrap >= len(records) or records[bootstrap]["episode"] != records[anchor]["episode"]:
            return None
        obs, next_obs = (self._stacked(records, oldest, t) for t in (anchor, bootstrap))
        if obs is None or next_obs is None:
            return None
        reward, discount = np.float32(0), np.float32(1)
        for record in records[anchor:bootstrap]:
            reward = np.float32(reward + np.float32(discount * record["reward"]))
            discount = np.float32(discount * np.float32(record["discount"] * self.gamma))
        action = records[anchor]["action"]
        return {"pixels": obs, "next": next_obs, "action": action, "reward": reward, "discount": discount}

    def _stacked(self, records: list[dict], oldest: int, t: int) -> np.ndarray | None:
        frames = []
        for back in reversed(range(self.stack)):
            source = t - back
            while source < 0 or records[source]["episode"] != records[t]["episode"]:
                source += 1  # before the reset: repeat the reset frame
            if source < oldest:
                return None
            frames.append(records[source]["frame"])
        return np.concatenate(frames)


def key_of(pixels: np.ndarray, action: np.ndarray) -> bytes:
    return pixels[-CHANNELS:].tobytes() + action.tobytes()


def make(stack: int = 3, n_step: int = 3, **kwargs: Any) -> FrameReplay:
    settings: dict[str, Any] = {"capacity": 60, "batch_size": 16, "discount": 0.99} | kwargs
    return FrameReplay(
        obs_shape=(CHANNELS * stack, SIZE, SIZE), action_dim=ACTIONS, frame_stack=stack, n_step=n_step, **settings
    )


def assert_batch_is_naive(batch: TensorDict, naive: NaiveReplay) -> None:
    allowed = naive.transitions_by_key()
    for row in batch.unbind(0):
        wanted = allowed[key_of(row["pixels"].numpy(), row["action"].numpy())]
        np.testing.assert_array_equal(row["pixels"].numpy(), wanted["pixels"])
        np.testing.assert_array_equal(row["next", "pixels"].numpy(), wanted["next"])
        assert row["reward"].numpy()[0] == wanted["reward"]
        assert row["discount"].numpy()[0] == wanted["discount"]


def assert_same_batch(one: TensorDict, two: TensorDict) -> None:
    for key in ("pixels", "action", "reward", "discount", ("next", "pixels")):
        assert torch.equal(one[key], two[key]), key


def through_file(state: dict[str, Any]) -> dict[str, Any]:
    """Save and load as a checkpoint does."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# ---------------------------------------------------------------------------------------------- what is sampled


@pytest.mark.parametrize(("stack", "n_step"), [(3, 3), (3, 1), (1, 1), (3, 5), (4, 3)])
@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("storage", ["ram", "memmap"])
def test_every_sample_equals_the_naive_replay(stack, n_step, lanes, storage, tmp_path):
    folder = tmp_path / "replay" if storage == "memmap" else None
    replay = make(stack, n_step, num_lanes=lanes, storage=storage, folder=folder, slack=3)
    naive, episodes = NaiveReplay(lanes, 60, stack, n_step), Episodes(lanes, stack)
    for t in range(400 // lanes):  # about seven times round each ring, through many episode ends
        step = episodes.step()
        replay.write(step)
        naive.write(step)
        assert replay.has_window == bool(naive.transitions_by_key())
        if t % 7 == 0 and replay.has_window:
            assert_batch_is_naive(replay.sample(), naive)
            assert replay.num_windows == len(naive.transitions_by_key())
            assert replay.num_transitions == naive.num_transitions()
            assert len(replay) == sum(min(len(records), naive.length) for records in naive.lanes)


@pytest.mark.parametrize("steps", [40, 333])  # before and after the ring wrapped
@pytest.mark.parametrize("lanes", [1, 3])
def test_all_windows_and_only_those_are_drawn_uniformly(steps, lanes):
    replay, naive, episodes = make(num_lanes=lanes, batch_size=500), NaiveReplay(lanes, 60, 3, 3), Episodes(lanes, 3)
    for _ in range(steps):
        step = episodes.step()
        replay.write(step)
        naive.write(step)
    counts = dict.fromkeys(naive.transitions_by_key(), 0)
    for _ in range(40):
        batch = replay.sample()
        for pixels, action in zip(batch["pixels"].numpy(), batch["action"].numpy(), strict=True):
            counts[key_of(pixels, action)] += 1  # KeyError: a window that must not be drawn
    expected = 40 * 500 / len(counts)
    chi2 = sum((count - expected) ** 2 / expected for count in counts.values())
    freedom = len(counts) - 1
    assert chi2 < freedom + 5 * math.sqrt(2 * freedom), "not uniform"


def test_sampling_works_when_almost_nothing_is_complete():
    replay, naive = make(n_step=5, capacity=400, batch_size=64), NaiveReplay(1, 400, 3, 5)
    long, short = Episodes(1, 3, longest=1), Episodes(1, 3, seed=1, longest=4)
    long.left, long.frames = [6], [[long._frame()]]  # one episode with two windows...
    for source, steps in ((long, 6), (short, 200)):  # ...among hundreds of records without any
        short.next_id = max(short.next_id, 1000)
        for _ in range(steps):
            step = source.step()
            replay.write(step)
            naive.write(step)
    assert replay.num_windows == 2
    batch = replay.sample()
    assert_batch_is_naive(batch, naive)
    assert len({row.numpy().tobytes() for row in batch["action"]}) == 2


def test_a_window_may_end_at_a_true_termination():
    episodes = Episodes(1, 3)
    replay = make(n_step=2)
    steps = [episodes.step() for _ in range(2)]
    for t, step in enumerate(steps):
        step["next", "done"][:] = t == 1
        step["next", "discount"][:] = float(t != 1)
        step["next", "reward"][:] = 1.0
        replay.write(step)
    assert replay.num_windows == 1
    batch = replay.sample()
    assert torch.equal(batch["discount"], torch.zeros(16, 1))
    assert torch.equal(batch["reward"], torch.full((16, 1), 1.0) + torch.tensor(0.99))
    assert torch.equal(batch["next", "pixels"][0], steps[1]["next", "pixels"][0])


def test_the_open_episode_is_sampled_as_soon_as_a_window_is_complete():
    replay, episodes = make(n_step=3), Episodes(1, 3, longest=1)
    episodes.left, episodes.frames = [50], [[episodes._frame()]]
    assert not replay.has_window
    assert not replay.can_sample()
    with pytest.raises(RuntimeError, match="no complete 3-step window"):
        replay.sample()
    for written in range(1, 8):
        replay.write(episodes.step())
        assert replay.num_windows == max(0, written - 3)
        assert replay.has_window == (written > 3)


def test_has_window_ends_when_the_last_window_is_overwritten():
    replay, naive = make(capacity=12), NaiveReplay(1, 12, 3, 3)
    long, short = Episodes(1, 3, longest=1), Episodes(1, 3, seed=1, longest=2)
    long.left, long.frames = [10], [[long._frame()]]
    seen = []
    for source, steps in ((long, 10), (short, 20)):
        for _ in range(steps):
            step = source.step()
            replay.write(step)
            naive.write(step)
            assert replay.has_window == bool(naive.transitions_by_key())
            seen.append(replay.has_window)
    assert seen[9] is True
    assert seen[-1] is False


def test_seed_decides_the_samples_and_memmap_equals_ram(tmp_path):
    replays = [make(seed=1), make(seed=1, storage="memmap", folder=tmp_path / "m"), make(seed=2)]
    episodes = Episodes(1, 3)
    for _ in range(100):
        step = episodes.step()
        for replay in replays:
            replay.write(step)
    batches = [replay.sample() for replay in replays]
    assert_same_batch(batches[0], batches[1])
    assert not torch.equal(batches[0]["action"], batches[2]["action"])


def test_sampling_touches_no_global_generator():
    replay, episodes = make(), Episodes(1, 3)
    before = torch.get_rng_state()
    for _ in range(30):
        replay.write(episodes.step())
    replay.sample()
    assert torch.equal(before, torch.get_rng_state())


def test_batch_types_and_lifetime():
    replay, episodes = make(), Episodes(1, 3)
    for _ in range(60):
        replay.write(episodes.step())
    first = replay.sample()
    copy = first.clone()
    assert first.batch_size == (16,)
    shapes = {key: (tuple(first[key].shape), first[key].dtype) for key in first.keys(True, True)}
    image = ((16, 9, SIZE, SIZE), torch.uint8)
    one = ((16, 1), torch.float32)
    action = ((16, ACTIONS), torch.float32)
    assert shapes == {"pixels": image, ("next", "pixels"): image, "reward": one, "discount": one, "action": action}
    assert first["pixels"].is_contiguous()
    assert first["next", "pixels"].is_contiguous()
    replay.sample()
    assert_same_batch(first, copy)  # survives one further sample
    other = replay.peek(16, torch.Generator().manual_seed(0))
    kept = other.clone()
    for _ in range(3):
        replay.sample()
    assert_same_batch(other, kept)  # fresh tensors


def test_peek_leaves_the_runs_own_batches_alone():
    one, two, episodes = make(), make(), Episodes(1, 3)
    for _ in range(60):
        step = episodes.step()
        one.write(step)
        two.write(step)
    one.peek(7, torch.Generator().manual_seed(3))
    assert_same_batch(one.sample(), two.sample())


def test_empty_forgets_everything_and_the_open_episode_goes_on():
    replay, episodes = make(), Episodes(1, 3, longest=1)
    episodes.left, episodes.frames = [60], [[episodes._frame()]]
    for _ in range(30):
        replay.write(episodes.step())
    replay.empty()
    assert (len(replay), replay.num_transitions, replay.has_window) == (0, 0, False)
    for _ in range(6):  # mid-episode: two frames of history plus three transitions and their end
        replay.write(episodes.step())
    assert replay.num_windows == 1


def test_raw_records_can_be_read():
    replay, episodes = make(), Episodes(1, 3)
    for _ in range(20):
        replay.write(episodes.step())
    records = replay[:5]
    assert records["pixels"].shape == (5, CHANNELS, SIZE, SIZE)
    assert records["step"][0] == 0


def test_write_accepts_any_batch_shape_and_refuses_wrong_data():
    replay, episodes = make(num_lanes=3), Episodes(3, 3)
    replay.write(episodes.step().reshape(3, 1))
    with pytest.raises(ValueError, match="3 lanes"):
        replay.write(episodes.step()[:2])
    wrong = episodes.step()
    wrong["pixels"] = wrong["pixels"].float()
    with pytest.raises(ValueError, match="uint8"):
        replay.write(wrong)
    assert replay.written.tolist() == [1, 1, 1]


# ------------------------------------------------------------------------------------------------ exact resume


def run(replay: FrameReplay, episodes: Episodes, steps: int) -> list[TensorDict]:
    """Write and sample as training does; return copies of the batches."""
    batches = []
    for _ in range(steps):
        replay.write(episodes.step())
        if replay.has_window:
            batches.append(replay.sample().clone())
    return batches


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
sys.path[:0] = [{str(Path(__file__).parent)!r}]
from test_buffer import Episodes, make, run
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


# --------------------------------------------------------------------------------------------- folders and errors


@pytest.mark.parametrize("storage", ["ram", "memmap"])
def test_files_of_another_run_are_never_touched(storage, tmp_path):
    first = make(folder=tmp_path)
    run(first, Episodes(1, 3), 40)
    state = first.state_dict()
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    other = make(storage=storage, folder=tmp_path)

    def write_and_flush():
        run(other, Episodes(1, 3), 1)
        other.flush()

    with pytest.raises(UserError, match="another run"):
        write_and_flush()
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = make(folder=tmp_path)
    again.load_state_dict(state)
    assert_same_batch(again.sample(), first.sample())


def test_folder_is_untouched_until_needed(tmp_path):
    replay = make(folder=tmp_path / "replay")
    run(replay, Episodes(1, 3), 5)
    assert not (tmp_path / "replay").exists()
    replay.flush()
    assert (tmp_path / "replay" / "replay.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"capacity": 80}, "capacity is 80 now but 60"),
        ({"slack": 9}, "slack is 9 now but 4"),
        ({"num_lanes": 3}, "num_lanes is 3 now but 1"),
        ({"stack": 1}, None),  # frames are stored singly: the stack may change
    ],
)
def test_another_layout_is_refused_naming_both_values(change, message, tmp_path):
    replay = make(folder=tmp_path, slack=4)
    run(replay, Episodes(1, 3), 30)
    other = make(folder=tmp_path, **({"slack": 4} | change))
    if message is None:
        other.load_state_dict(replay.state_dict())
        assert other.sample()["pixels"].shape == (16, CHANNELS, SIZE, SIZE)
    else:
        with pytest.raises(UserError, match=message):
            other.load_state_dict(replay.state_dict())


def test_missing_or_foreign_folder_is_refused(tmp_path):
    replays = [make(folder=tmp_path / name) for name in "ab"]
    for replay in replays:
        run(replay, Episodes(1, 3), 30)
    states = [replay.state_dict() for replay in replays]
    with pytest.raises(UserError, match="not there"):
        make(folder=tmp_path / "c").load_state_dict(states[0])
    with pytest.raises(UserError, match=f"belongs to run {states[1]['storage']['run']}"):
        make(folder=tmp_path / "b").load_state_dict(states[0])


def keeping(path: Path, num_bytes: int) -> None:
    os.truncate(path, num_bytes)


DAMAGE = {
    "no bookkeeping in it": ("replay.json", lambda path: path.write_text("")),
    "bookkeeping of another kind": ("replay.json", lambda path: path.write_text("[]")),
    "bookkeeping that is no text": ("replay.json", lambda path: path.write_bytes(b"\xff\x00")),
    "bookkeeping without its forks": ("replay.json", lambda path: path.write_text('{"format": 1}')),
    "no records": ("records", shutil.rmtree),
    "no actions": ("records/action.memmap", Path.unlink),
    "no description of the records": ("records/meta.json", Path.unlink),
    "half a description": ("records/meta.json", lambda path: keeping(path, 99)),
    "few frames": ("records/pixels.memmap", lambda path: keeping(path, 100)),
    "a frame too few": ("records/pixels.memmap", lambda path: keeping(path, path.stat().st_size - 1)),
    "no high-water mark": ("high_water.bin", Path.unlink),
    "an empty high-water mark": ("high_water.bin", lambda path: keeping(path, 0)),
}


@pytest.mark.parametrize("storage", ["ram", "memmap"])
@pytest.mark.parametrize(("name", "damage"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_files_are_refused_and_left_alone(name, damage, storage, tmp_path):
    """Mapping a file that is too short would fill it up with zeros, and train on them."""
    replay = make(folder=tmp_path)
    run(replay, Episodes(1, 3), 30)
    state = replay.state_dict()
    damage(tmp_path / name)
    before = {path: path.stat().st_size for path in tmp_path.rglob("*")}
    with pytest.raises(UserError, match=r"replay in \S+ is damaged \(.*\)\. .*--data\.allow_empty_replay") as refusal:
        make(storage=storage, folder=tmp_path).load_state_dict(state)
    assert "\n" not in str(refusal.value)
    assert {path: path.stat().st_size for path in tmp_path.rglob("*")} == before


def test_memory_only_replay_has_no_persistence():
    replay = make()
    run(replay, Episodes(1, 3), 30)
    assert replay.flush() == 0
    with pytest.raises(UserError, match="memory only"):
        make().load_state_dict(through_file(replay.state_dict()))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"capacity": 5}, "capacity must be at least 6"),
        ({"n_step": 0}, "n_step=0 must be a whole number >= 1"),
        ({"discount": 1.5}, r"discount=1.5 must be in \[0, 1\]"),
        ({"storage": "disk"}, "storage='disk' must be one of .'ram', 'memmap'"),
        ({"storage": "memmap"}, "needs a folder"),
        ({"slack": -1}, "slack=-1 must be a whole number >= 0"),
    ],
)
def test_bad_arguments_are_named(wrong, message):
    with pytest.raises(UserError, match=message):
        make(**wrong)


def test_obs_shape_must_be_a_stack():
    with pytest.raises(UserError, match="obs_shape"):
        FrameReplay(obs_shape=(8, SIZE, SIZE), action_dim=1, capacity=100)


# ------------------------------------------------------------------------------------------------------- size


def test_size_is_exact_and_nothing_is_touched_up_front(tmp_path):
    replay = make(folder=tmp_path, storage="memmap", capacity=1000, slack=11, num_lanes=3)
    run(replay, Episodes(3, 3), 5)
    stored = TensorDict.load_memmap(tmp_path / "records")
    size = replay_bytes((9, SIZE, SIZE), 3, ACTIONS, 1000, 3, 11)
    assert size == replay.size_bytes == sum(value.numel() * value.itemsize for value in stored.values())
    assert stored.shape == (3 * (334 + 11),)
    full = replay_bytes((9, 84, 84), 3, 6, 1_000_000)
    assert 21.1e9 < full < 21.3e9


def test_files_are_sparse(tmp_path):
    replay = make(folder=tmp_path, storage="memmap", capacity=1_000_000)
    run(replay, Episodes(1, 3), 5)
    assert sum(path.stat().st_blocks * 512 for path in tmp_path.rglob("*")) < 2_000_000 < replay.size_bytes


def test_check_fits_names_need_and_fix(tmp_path):
    check_fits(1000, "ram")
    check_fits(1000, "memmap", tmp_path / "not" / "yet")
    assert available_memory() is None or available_memory() > 0
    with pytest.raises(UserError, match=r"needs 1{18} bytes.*--data.capacity.*--data.storage memmap"):
        check_fits(111111111111111111, "ram")
    with pytest.raises(UserError, match=r"of disk in .*available.*--data.capacity"):
        check_fits(111111111111111111, "memmap", tmp_path)


# ------------------------------------------------------------------------------ TorchRL internals relied upon


def test_guard_torchrl_gives_the_sampler_its_generator():
    replay = make()
    assert isinstance(getattr(replay.sampler, "_rng", None), torch.Generator), (
        "TorchRL no longer passes ReplayBuffer(generator=...) to Sampler._rng: WindowSampler would lose its seed"
    )


def test_guard_torchrl_gives_the_writer_its_storage():
    replay = make()
    assert getattr(replay.writer, "_storage", None) is replay.storage, (
        "TorchRL's Writer.register_storage no longer sets Writer._storage, which LaneWriter writes to"
    )


@pytest.mark.parametrize("base", [Sampler, Storage, Writer])
def test_guard_torchrl_empties_through_the_private_hook(base):
    assert callable(getattr(base, "_empty", None)), (
        f"TorchRL's {base.__name__} lost the hook _empty that ReplayBuffer.empty() calls: override its replacement"
    )
