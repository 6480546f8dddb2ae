"""Draws by age against weights that are written out, record by record."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from naive_replay import Episodes, assert_same_batch, make, run

from plasticity_rl.errors import UserError
from plasticity_rl.replay.ages import AgeWeights


def test_weights_by_hand():
    weights = AgeWeights(decay_steps=10, floor=0.25).of(torch.tensor([1, 5, 7, 8, 10, 300]))
    assert weights.tolist() == pytest.approx([0.9, 0.5, 0.3, 0.25, 0.25, 0.25])


@pytest.mark.parametrize("live", [[30], [7], [40, 0, 25], [3, 12, 1]])
def test_an_even_grid_of_points_falls_into_ages_in_proportion(live, monkeypatch):
    """The points are those of an even grid instead of random ones, so that each count is known within one."""
    weights, count = AgeWeights(decay_steps=12, floor=0.2), 50_000
    grid = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    monkeypatch.setattr(torch, "rand", lambda *_, **__: grid)
    lanes, ages = weights.draw(torch.tensor(live), count, None)
    drawn = Counter(zip(lanes.tolist(), ages.tolist(), strict=True))
    slow = {(lane, age): max(0.2, 1 - age / 12) for lane, n in enumerate(live) for age in range(1, n + 1)}
    total = sum(slow.values())
    assert drawn.keys() == slow.keys()
    assert all(abs(drawn[key] - count * weight / total) <= 1.001 for key, weight in slow.items())


def anchors_of(replay, batches: int) -> Counter:
    """Draw batches as ``sample`` does, and count the records with which their windows begin."""
    seen: Counter = Counter()
    for _ in range(batches):
        windows, _ = replay._windows.sample(replay._records, replay._batch_size)
        lanes, numbers = replay._records.records_in(windows.frames[:, -1])
        seen.update(zip(lanes.tolist(), numbers.tolist(), strict=True))
    return seen


@pytest.mark.parametrize(("steps", "lanes"), [(25, 1), (90, 1), (60, 2)])
def test_complete_windows_are_drawn_in_proportion_and_no_others(steps, lanes):
    replay = make(num_lanes=lanes, batch_size=500)
    run(replay, Episodes(lanes, 3), steps)
    replay.weigh_by_age(AgeWeights(decay_steps=20, floor=0.3))
    counts, written = anchors_of(replay, 40), replay.written.tolist()
    complete = replay._windows.complete_anchors(replay._records)
    windows = zip(complete.lanes.tolist(), complete.numbers.tolist(), strict=True)
    weights = {(lane, number): max(0.3, 1 - (written[lane] - number) / 20) for lane, number in windows}
    assert counts.keys() == weights.keys()
    scale = 40 * 500 / sum(weights.values())
    chi2 = sum((counts[key] - scale * weight) ** 2 / (scale * weight) for key, weight in weights.items())
    freedom = len(weights) - 1
    assert chi2 < freedom + 5 * math.sqrt(2 * freedom)
    even = 40 * 500 / len(weights)
    assert sum((counts[key] - even) ** 2 / even for key in weights) > freedom + 20 * math.sqrt(2 * freedom), "uniform"


def test_where_almost_nothing_is_complete_it_draws_by_age_too():
    replay = make(n_step=5, capacity=400, batch_size=2000)
    long, short = Episodes(1, 3, terminated=0), Episodes(1, 3, seed=1, longest=4, terminated=0)
    long.left, long.frames = [6], [[long._frame()]]  # one episode with two windows among hundreds of records
    for source, steps in ((long, 6), (short, 200)):
        for _ in range(steps):
            replay.write(source.step())
    assert replay.num_windows == 2
    weights = AgeWeights(decay_steps=int(replay.written) + 10, floor=0.001)
    replay.weigh_by_age(weights)
    counts = anchors_of(replay, 10)
    expected = [float(weights.of(replay.written - number)) for _, number in sorted(counts)]
    share = counts[max(counts)] / sum(counts.values())
    assert share == pytest.approx(expected[1] / sum(expected), abs=0.015)


def test_what_probes_draw_stays_uniform_and_the_replay_can_go_back():
    """Equal seeds: draws by age take other numbers, those of a peek are the same, and so are all once it ends."""
    by_age, uniform = make(), make()
    for replay in (by_age, uniform):
        run(replay, Episodes(1, 3), 40)
    by_age.weigh_by_age(AgeWeights(decay_steps=5, floor=0.1))
    peeks = [replay.peek(16, torch.Generator().manual_seed(3)) for replay in (by_age, uniform)]
    assert_same_batch(*peeks)
    by_age.weigh_by_age(None)
    assert_same_batch(by_age.sample(), uniform.sample())
    by_age.weigh_by_age(AgeWeights(decay_steps=5, floor=0.1))
    assert not torch.equal(by_age.sample()["pixels"], uniform.sample()["pixels"])


@pytest.mark.parametrize(("decay", "floor"), [(0, 0.1), (10, 0.0), (10, 1.1)])
def test_bad_weights_are_refused(decay, floor):
    with pytest.raises(UserError, match=r"(decay_steps|floor)="):
        AgeWeights(decay, floor)
