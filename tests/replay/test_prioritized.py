"""Prioritized windows against a dictionary of priorities, and what they must leave alone."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from naive_replay import (
    Episodes,
    NaiveReplay,
    assert_batch_is_naive,
    assert_same_batch,
    make,
    run,
    through_file,
)

from plasticity_rl.errors import UserError
from plasticity_rl.replay.buffer import FrameReplay
from plasticity_rl.replay.prioritized import SMALLEST, Priorities


def prioritized(exponent: float = 0.5, beta: float = 0.4, **options) -> FrameReplay:
    return make(priorities=Priorities(exponent, lambda: beta), **options)


def weights(replay: FrameReplay) -> np.ndarray:
    return replay._windows.tree.leaves


def begins(replay: FrameReplay) -> set[tuple[int, int]]:
    """Lane and number of the record with which each complete window begins."""
    anchors = replay._windows.complete_anchors(replay._records)
    return set(zip(anchors.lanes.tolist(), anchors.numbers.tolist(), strict=True))


def slots_of(replay: FrameReplay, windows) -> list[int]:
    size = replay._records.layout.lane_slots
    return [lane * size + number % size for lane, number in windows]


class NaivePriorities:
    """A dictionary: priority by window."""

    def __init__(self) -> None:
        self.of: dict[tuple[int, int], float] = {}
        self.largest = 1.0

    def follow(self, replay: FrameReplay) -> None:
        self.of = {window: self.of.get(window, self.largest) for window in begins(replay)}

    def update(self, replay: FrameReplay, batch, losses) -> None:
        size = replay._records.layout.lane_slots
        for slot, number, loss in zip(batch["index"].tolist(), batch["number"].tolist(), losses.tolist(), strict=True):
            self.largest = max(self.largest, loss + SMALLEST)
            if (slot // size, number) in self.of:
                self.of[slot // size, number] = loss + SMALLEST

    def leaves(self, replay: FrameReplay, exponent: float) -> np.ndarray:
        found = np.zeros(replay._records.layout.slots, np.float32)
        if self.of:
            found[slots_of(replay, self.of)] = np.array(list(self.of.values())) ** exponent
        return found


@pytest.mark.parametrize(("stack", "n_step"), [(3, 3), (1, 1), (3, 5), (4, 1)])
@pytest.mark.parametrize(("lanes", "slack"), [(1, 0), (1, 7), (3, 0), (3, 5)])
def test_every_complete_window_and_no_other_has_its_priority(stack, n_step, lanes, slack):
    replay = prioritized(0.6, stack=stack, n_step=n_step, num_lanes=lanes, slack=slack)
    naive, episodes = NaiveReplay(lanes, 60, stack, n_step), Episodes(lanes, stack, life_loss=0.1)
    priorities, rng, waiting = NaivePriorities(), torch.Generator().manual_seed(0), []
    for t in range(200 // lanes):  # about three times round each ring
        step = episodes.step()
        replay.write(step)
        naive.write(step)
        priorities.follow(replay)
        assert replay.has_window == bool(priorities.of)
        assert np.array_equal(weights(replay), priorities.leaves(replay, 0.6)), t
        if replay.has_window:
            batch = replay.sample().clone()
            assert_batch_is_naive(batch, naive)
            waiting.append(batch)
        if t % 3 == 0 and waiting:  # some come when their records have long been overwritten
            batch = waiting.pop(int(torch.randint(len(waiting), (), generator=rng)))
            losses = torch.empty(len(batch)).exponential_(generator=rng) ** 3
            replay.update_priorities(batch, losses)
            priorities.update(replay, batch, losses)


@pytest.mark.parametrize("lanes", [1, 3])
def test_windows_are_drawn_in_proportion_and_rows_hold_what_their_record_says(lanes):
    replay = prioritized(num_lanes=lanes, batch_size=500)
    episodes = Episodes(lanes, 3)
    for _ in range(333):
        replay.write(episodes.step())
    first = replay.sample().clone()
    replay.update_priorities(first, torch.linspace(0, 4, 500))
    leaves = weights(replay)
    counts = Counter(slot for _ in range(40) for slot in replay.sample()["index"].tolist())
    assert all(leaves[slot] > 0 for slot in counts)
    expected = {slot: leaves[slot] / leaves.sum() * 40 * 500 for slot in leaves.nonzero()[0].tolist()}
    chi2 = sum((counts[slot] - mean) ** 2 / mean for slot, mean in expected.items() if mean > 5)
    freedom = sum(mean > 5 for mean in expected.values()) - 1
    assert chi2 < freedom + 5 * math.sqrt(2 * freedom), "not in proportion"
    batch = replay.sample()
    assert torch.equal(replay[batch["index"]]["action"], batch["action"])
    assert (batch["index"][1:] < batch["index"][:-1]).any(), "parts of a batch should not be parts of the replay"


def test_weights_by_hand():
    replay = prioritized(exponent=0.5, beta=0.5, batch_size=200)
    run(replay, Episodes(1, 3), 20)
    some = replay.sample().clone()
    loss = torch.where(some["index"] == some["index"][0], 16.0, 1.0)
    replay.update_priorities(some, loss)
    batch = replay.sample()
    assert batch["weight"].shape == (200, 1)
    assert batch["weight"].dtype == torch.float32
    # 16 ** 0.5 = 4 times as probable, so (1 / 4) ** 0.5 = 0.5 of the others' weight; the largest is 1.
    wanted = torch.where(batch["index"] == some["index"][0], 0.5, 1.0)
    torch.testing.assert_close(batch["weight"][:, 0], wanted)


def test_beta_is_asked_at_every_batch():
    now = [0.0]
    replay = make(priorities=Priorities(1.0, lambda: now[0]), batch_size=200)
    run(replay, Episodes(1, 3), 20)
    batch = replay.sample().clone()
    replay.update_priorities(batch, torch.linspace(1, 4, 200))
    assert (replay.sample()["weight"] == 1).all()
    now[0] = 1.0
    batch = replay.sample()
    lost = weights(replay)[batch["index"].numpy()]
    torch.testing.assert_close(batch["weight"][:, 0].numpy(), lost.min() / lost)


def test_new_windows_get_the_largest_loss_so_far():
    replay, episodes = prioritized(1.0), Episodes(1, 3, longest=1000)
    run(replay, episodes, 10)
    before = begins(replay)
    assert set(weights(replay)[slots_of(replay, before)]) == {1.0}
    batch = replay.sample().clone()
    replay.update_priorities(batch, torch.full((16,), 5.0))
    replay.update_priorities(batch, torch.full((16,), 0.25))
    replay.write(episodes.step())
    (new,) = begins(replay) - before
    assert weights(replay)[slots_of(replay, [new])] == 5
    assert set(weights(replay)[batch["index"]]) == {0.25}


def test_a_slot_with_another_record_keeps_its_priority():
    replay, episodes = prioritized(), Episodes(1, 3, longest=1000)
    run(replay, episodes, 60)
    batch = replay.sample().clone()
    for _ in range(60):  # once round the ring
        replay.write(episodes.step())
    before = weights(replay)
    assert before[batch["index"]].any()
    replay.update_priorities(batch, torch.full((16,), 0.5))
    assert np.array_equal(weights(replay), before)


def test_losses_that_are_no_numbers_change_nothing_and_zero_can_still_be_drawn():
    replay = prioritized()
    run(replay, Episodes(1, 3), 60)
    before, batch = weights(replay), replay.sample().clone()
    replay.update_priorities(batch, torch.tensor([math.nan, math.inf] * 8))
    assert np.array_equal(weights(replay), before)
    assert replay._windows.max_priority == 1
    replay.update_priorities(batch, torch.zeros(16))
    assert np.array_equal(weights(replay)[batch["index"]], np.full(16, 1e-5, np.float32))  # SMALLEST ** 0.5
    with pytest.raises(AssertionError, match="at least 0"):
        replay.update_priorities(batch, torch.full((16,), -1.0))


def test_batches_of_others_are_uniform_and_leave_no_trace():
    replay, twin = prioritized(), prioritized()
    for one in (replay, twin):
        run(one, Episodes(1, 3), 200)
        batch = one.sample().clone()
        one.update_priorities(batch, torch.full((16,), 1e6))
    generator = torch.Generator().manual_seed(0)
    number_of = {int(a): i for i, a in enumerate(replay._windows.complete_anchors(replay._records).numbers)}
    peeked = replay.peek(20_000, generator)
    assert set(peeked.keys()) == {"pixels", "action", "reward", "discount", "next"}
    _, counts = np.unique(peeked["action"].numpy(), axis=0, return_counts=True)
    expected = 20_000 / len(number_of)
    freedom = len(number_of) - 1
    assert len(counts) == len(number_of)
    assert ((counts - expected) ** 2 / expected).sum() < freedom + 5 * math.sqrt(2 * freedom), "not uniform"
    parts = list(replay.peek_distinct(1000, generator, 10))
    assert sum(len(part) for part in parts) == len(number_of)
    replay.update_priorities(peeked, torch.ones(20_000))
    replay.update_priorities(parts[0], torch.ones(10))
    assert np.array_equal(weights(replay), weights(twin))
    assert_same_batch(replay.sample(), twin.sample())


def test_a_uniform_replay_takes_losses_and_does_nothing():
    replay = make()
    run(replay, Episodes(1, 3), 20)
    batch = replay.sample()
    assert "weight" not in batch
    replay.update_priorities(batch, torch.ones(16))


def learn(replay: FrameReplay, episodes: Episodes, steps: int) -> list:
    """Write, sample and set priorities as training does; return copies of the batches."""
    batches = []
    for _ in range(steps):
        replay.write(episodes.step())
        if replay.has_window:
            batches.append(replay.sample().clone())
            replay.update_priorities(batches[-1], batches[-1]["reward"].abs()[:, 0])
    return batches


def assert_same_run(one: list, two: list) -> None:
    assert len(one) == len(two) > 0
    for mine, other in zip(one, two, strict=True):
        assert_same_batch(mine, other)
        for key in ("weight", "index", "number"):
            assert torch.equal(mine[key], other[key]), key


@pytest.mark.parametrize("storage", ["ram", "memmap"])
@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("steps", [15, 150])
def test_resumed_equals_uninterrupted_also_from_an_older_checkpoint(storage, lanes, steps, tmp_path):
    options = {"num_lanes": lanes, "slack": 200, "storage": storage, "folder": tmp_path / "replay"}
    replay, episodes = prioritized(**options), Episodes(lanes, 3, life_loss=0.1)
    learn(replay, episodes, steps)
    state, kept = through_file(replay.state_dict()), weights(replay)
    future = Episodes(lanes, 3, life_loss=0.1)
    for _ in range(steps):
        future.step()
    went_on = learn(replay, episodes, 60)
    replay.flush()
    again = prioritized(**options, seed=77)
    again.load_state_dict(state)
    assert np.array_equal(weights(again), kept)
    assert np.array_equal(again._windows.tree._nodes[1:2], [kept_total(kept)])
    assert_same_run(learn(again, future, 60), went_on)
    assert np.array_equal(weights(again), weights(replay))


def kept_total(leaves: np.ndarray) -> float:
    """The sum as a tree adds."""
    nodes = np.zeros(1 << (len(leaves) - 1).bit_length())
    nodes[: len(leaves)] = leaves
    while len(nodes) > 1:
        nodes = nodes[0::2] + nodes[1::2]
    return float(nodes[0])


def test_a_uniform_checkpoint_goes_on_with_priorities_and_the_other_way_round(tmp_path):
    options = {"slack": 200, "folder": tmp_path / "replay"}
    uniform = make(**options)
    run(uniform, Episodes(1, 3), 90)
    replay = prioritized(**options)
    replay.load_state_dict(through_file(uniform.state_dict()))
    assert set(weights(replay)[slots_of(replay, begins(replay))]) == {1.0}
    assert np.count_nonzero(weights(replay)) == replay.num_windows
    replay.update_priorities(replay.sample(), torch.full((16,), 3.0))
    back = make(**options)
    back.load_state_dict(through_file(replay.state_dict()))
    assert "weight" not in back.sample()


@pytest.mark.parametrize("n_step", [1, 6])
def test_another_n_keeps_the_priorities_of_windows_that_stay(n_step, tmp_path):
    options = {"slack": 200, "folder": tmp_path / "replay"}
    replay, episodes = prioritized(**options), Episodes(1, 3)
    learn(replay, episodes, 90)
    before, largest = weights(replay), np.float32(replay._windows.max_priority**0.5)
    other = prioritized(**options, n_step=n_step)
    other.load_state_dict(through_file(replay.state_dict()))
    slots = slots_of(other, begins(other))
    wanted = np.zeros_like(before)
    wanted[slots] = np.where(before[slots] > 0, before[slots], largest)
    assert np.array_equal(weights(other), wanted)
    assert not np.array_equal(wanted, before)
    learn(other, episodes, 20)
    assert np.count_nonzero(weights(other)) == other.num_windows


def test_gone_on_without_its_replay_it_begins_with_no_window(tmp_path):
    replay, episodes = prioritized(folder=tmp_path / "replay", slack=50), Episodes(1, 3, longest=1000)
    learn(replay, episodes, 90)
    state = through_file(replay.state_dict())
    fresh = prioritized(folder=tmp_path / "other", slack=50)
    fresh.load_state_dict(state, empty=True)
    assert not fresh.has_window
    with pytest.raises(RuntimeError, match="no complete 3-step window"):
        fresh.sample()
    for _ in range(20):
        fresh.write(episodes.step())
    assert np.count_nonzero(weights(fresh)) == fresh.num_windows > 0
    assert state["sampler"]["max_priority"] > 1
    assert weights(fresh).max() == np.float32(state["sampler"]["max_priority"] ** 0.5), "the same run and task go on"


def test_emptied_and_filled_with_whole_episodes_it_follows():
    donor, replay = make(capacity=400), prioritized()
    for step in (episodes := Episodes(1, 3)) and [episodes.step() for _ in range(100)]:
        donor.write(step)
    records, ends = donor[:100], donor[:100]["terminal"].nonzero()[:, 0].tolist()
    first = 0
    for end in ends:
        replay.append_episode(0, records[first : end + 1])
        first = end + 1
        assert np.count_nonzero(weights(replay)) == replay.num_windows
        assert set(weights(replay)[slots_of(replay, begins(replay))]) <= {1.0}
    assert int(replay.written) > 60, "once round the ring"
    old = replay.sample().clone()
    replay.update_priorities(old, torch.full((16,), 400.0))
    replay.empty()
    assert not replay.has_window
    run(replay, episodes := Episodes(1, 3), 30)
    assert set(weights(replay)[slots_of(replay, begins(replay))]) == {1.0}, "as in a fresh replay"
    replay.update_priorities(old, torch.zeros(16))
    learn(replay, episodes, 30)
    assert np.count_nonzero(weights(replay)) == replay.num_windows > 0


def test_an_exponent_out_of_range_is_refused():
    with pytest.raises(UserError, match=r"priority_exponent=1.5 must be in \[0, 1\]"):
        prioritized(1.5)
