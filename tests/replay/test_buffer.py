"""FrameReplay against a naive replay (python lists), and its statistics."""

from __future__ import annotations

import math

import pytest
import torch
from naive_replay import (
    ACTIONS,
    CHANNELS,
    SIZE,
    Episodes,
    NaiveReplay,
    assert_batch_is_naive,
    assert_same_batch,
    key_of,
    make,
    through_file,
)

from plasticity_rl.errors import UserError


@pytest.mark.parametrize(("stack", "n_step"), [(3, 3), (3, 1), (1, 1), (3, 5), (4, 3)])
@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("storage", ["ram", "memmap"])
def test_every_sample_equals_the_naive_replay(stack, n_step, lanes, storage, tmp_path):
    folder = tmp_path / "replay" if storage == "memmap" else None
    replay = make(stack, n_step, num_lanes=lanes, storage=storage, folder=folder, slack=3)
    naive, episodes = NaiveReplay(lanes, 60, stack, n_step), Episodes(lanes, stack, life_loss=0.1)
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


@pytest.mark.parametrize("storage", ["ram", "memmap"])
def test_discrete_actions_stay_whole_numbers_and_rewards_are_clipped_when_read(storage, tmp_path):
    replay = make(action_dim=1, num_actions=5, reward_clip=0.5, storage=storage, folder=tmp_path / "replay", slack=99)
    naive, episodes = NaiveReplay(1, 60, 3, 3, clip=0.5), Episodes(1, 3, life_loss=0.1, num_actions=5)
    for _ in range(150):
        step = episodes.step()
        replay.write(step)
        naive.write(step)
    assert replay.sample()["action"].dtype == torch.int64
    assert_batch_is_naive(replay.sample(), naive)
    assert replay[:]["reward"].abs().max() > 0.5, "kept as it was"
    state = through_file(replay.state_dict())
    again = make(action_dim=1, num_actions=5, reward_clip=0.5, storage="ram", folder=tmp_path / "replay", slack=99)
    again.load_state_dict(state)
    assert_same_batch(replay.sample(), again.sample())
    with pytest.raises(UserError, match="num_actions is 0 now but 5 there"):
        make(action_dim=1, folder=tmp_path / "replay", slack=99).load_state_dict(state)


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
    long, short = Episodes(1, 3, terminated=0), Episodes(1, 3, seed=1, longest=4, terminated=0)
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


def test_every_transition_before_a_true_termination_is_sampled():
    episodes, replay = Episodes(1, 3), make(n_step=3)
    steps = [episodes.step() for _ in range(3)]
    for t, step in enumerate(steps):
        step["next", "done"][:] = t == 2
        step["next", "discount"][:] = float(t != 2)
        step["next", "reward"][:] = 10.0**t
        replay.write(step)
    assert replay.num_windows == 3
    found = {round(float(row["reward"]), 3): row for row in replay.sample().unbind(0)}
    assert set(found) == {108.91, 109.0, 100.0}  # 1 + 0.99 * 10 + 0.99 ** 2 * 100, 10 + 0.99 * 100, 100
    for row in found.values():
        assert float(row["discount"]) == 0.0
        assert torch.equal(row["next", "pixels"], steps[2]["next", "pixels"][0])


@pytest.mark.parametrize(("end", "windows"), [("time limit", 0), ("lost life, time limit", 2), ("lost life, open", 2)])
def test_a_lost_life_ends_the_return_and_nothing_else(end, windows):
    episodes, replay = Episodes(1, 3), make(n_step=4)
    steps = [episodes.step() for _ in range(3)]
    for t, step in enumerate(steps):
        step["next", "done"][:] = t == 2 and "open" not in end
        step["next", "discount"][:] = 0.0 if "life" in end and t == 1 else 1.0
        step["next", "reward"][:] = 10.0**t
        replay.write(step)
    assert replay.num_windows == windows
    if windows:  # a window of the second transition bootstraps nowhere, one of the third is not complete
        assert {round(float(reward), 3) for reward in replay.sample()["reward"]} == {10.9, 10.0}  # 1 + 0.99 * 10


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
    long, short = Episodes(1, 3, terminated=0), Episodes(1, 3, seed=1, longest=2, terminated=0)
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
