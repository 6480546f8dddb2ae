"""Windows that are drawn on the device: the same ones, as likely, with nothing read back."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from helpers import fit_tiny, tiny_sac, weights_hash
from naive_replay import (
    ACTIONS,
    CHANNELS,
    SIZE,
    Episodes,
    NaiveReplay,
    assert_batch_is_naive,
    assert_same_batch,
    make,
    run,
    through_file,
)
from no_sync import no_waiting
from pretend_gpu import pretend_gpu, trainer_options
from pretend_graph import PretendGraphs
from run_state import DieAt, Killed, differences, run_state
from tensordict import TensorDict

from plasticity_rl.nn.graphed import WARM_UP, EagerRecorder
from plasticity_rl.replay import recorded
from plasticity_rl.replay.ages import AgeWeights
from plasticity_rl.replay.buffer import FrameReplay
from plasticity_rl.replay.sampler import Anchors

ON_DEVICE: dict[str, Any] = {"storage": "device", "draw_on_device": True}
FROM_STATES: dict[str, Any] = {"make_agent": tiny_sac, "data_options": {"observation": "state", **ON_DEVICE}}


def rings(**options: Any) -> FrameReplay:
    return make(draw_on_device=True, **options)


# ---------------------------------------------------------------------------------- which windows there are


def slow_windows(replay: FrameReplay) -> list[tuple[int, int, int]]:
    """Return lane, number and length of every complete window, record by record, from what ended each episode."""
    storage, sampler, found = replay._records, replay._windows, []
    for lane, (oldest, written) in enumerate(zip(storage.oldest.tolist(), storage.written.tolist(), strict=True)):
        slots = storage.slot(torch.tensor(lane), torch.arange(oldest, written)) if written else torch.arange(0)
        records = {name: column[slots].tolist() for name, column in storage._columns.items() if name != "pixels"}
        for place in range(written - oldest):
            if place - min(records["step"][place], sampler.frame_stack - 1) < 0:
                continue
            lengths = []
            for ahead in range(1, sampler.n_step + 1):
                before = place + ahead - 1
                if before + 1 >= written - oldest or records["terminal"][before]:
                    break
                if ahead == sampler.n_step or records["discount"][before] == 0:
                    lengths.append(ahead)
            if lengths:
                found.append((lane, oldest + place, max(lengths) if max(lengths) == sampler.n_step else lengths[0]))
    return found


def assert_windows_are_the_slow_ones(replay: FrameReplay, monkeypatch: pytest.MonkeyPatch) -> int:
    """Compare what the draws 0, 1, ... would give, one for each window, with what is built of a list of them."""
    wanted, sampler, storage = slow_windows(replay), replay._windows, replay._records
    assert replay.has_window == bool(wanted)
    if not wanted:
        with pytest.raises(RuntimeError, match="no complete"):
            sampler.catch_up(storage)
        return 0
    sampler.catch_up(storage)
    assert sampler.rings.total == len(wanted)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randint", lambda *_, **__: torch.arange(len(wanted)))
        found = sampler.rings.draw(1, sampler.generator)
    anchors = Anchors(*torch.tensor(wanted).unbind(1))
    assert [torch.equal(*parts) for parts in zip(anchors, sampler.complete_anchors(storage), strict=True)] == [True] * 3
    built = sampler._windows(storage, anchors)
    assert [torch.equal(*parts) for parts in zip(found[:3], built[:3], strict=True)] == [True] * 3
    return len(wanted)


def recorded_episode(rng: np.random.Generator, length: int) -> TensorDict:
    last = torch.arange(length) == length - 1
    discount = torch.from_numpy((rng.random(length) > 0.2).astype(np.float32))
    columns = {
        "pixels": torch.from_numpy(rng.integers(0, 256, (length, CHANNELS, SIZE, SIZE), dtype=np.uint8)),
        "action": torch.zeros(length, ACTIONS),
        "reward": torch.zeros(length),
        "discount": torch.where(last, 0.0, discount),
        "step": torch.arange(length),
        "terminal": last,
    }
    return TensorDict(columns, [length])


def cut(replay: FrameReplay, episodes: Episodes) -> None:
    if all(episodes.frames):
        frames = np.stack([episodes._obs(frames) for frames in episodes.frames])
        replay.cut_episodes(torch.from_numpy(frames))
        episodes.left = [0] * episodes.lanes


@pytest.mark.parametrize("seed", range(10))
def test_the_rings_hold_the_complete_windows_at_every_moment(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    lanes, stack, n_step = 1 + seed % 3, 1 + seed // 2 % 3, 1 + seed % 5
    capacity = lanes * int(rng.integers(stack + n_step, 40))
    replay = rings(num_lanes=lanes, stack=stack, n_step=n_step, capacity=capacity, slack=seed % 2 * 3)
    episodes = Episodes(lanes, stack, seed=seed, longest=12, life_loss=0.2)
    most = 0
    for _ in range(150):
        for _ in range(int(rng.choice([1, 1, 1, 2, 7, 60], p=[0.3, 0.3, 0.2, 0.1, 0.08, 0.02]))):
            replay.write(episodes.step())
        event = rng.random()
        if event < 0.03:
            replay.empty()
        elif event < 0.06:
            cut(replay, episodes)
        elif event < 0.12 and 0 in episodes.left:
            replay.append_episode(episodes.left.index(0), recorded_episode(rng, int(rng.integers(1, 12))))
        elif event < 0.15:
            replay.set_horizon(int(rng.integers(1, n_step + 1)), 0.9)
        if rng.random() < 0.8:
            most = max(most, assert_windows_are_the_slow_ones(replay, monkeypatch))
    assert most > capacity / 4
    assert int(replay.written.max()) > 3 * replay.lane_length, "the rings went round"


def test_a_window_that_a_lost_life_ended_gets_longer_in_its_place(monkeypatch):
    """By hand, n = 3: the discount that leaves record 4 is 0, so record 5 completes windows 3 and 4 (2 steps and 1)."""
    replay, episodes = rings(), Episodes(1, 3)
    episodes.left, episodes.frames = [20], [[episodes._frame()]]
    lengths = []
    for index in range(9):
        step = episodes.step()
        step["next", "discount"][:] = float(index != 4)
        replay.write(step)
        assert_windows_are_the_slow_ones(replay, monkeypatch)
        lengths.append([length for _, _, length in slow_windows(replay)])
    assert lengths == [[], [], [], [3], [3, 3], [3, 3, 3, 2, 1], [3, 3, 3, 3, 1], [3] * 5, [3] * 6]


@pytest.mark.filterwarnings("ignore:Got conflicting batch_sizes")
def test_batches_are_those_of_the_naive_replay():
    replay, episodes, naive = rings(num_lanes=2, n_step=4), Episodes(2, 3, life_loss=0.2), NaiveReplay(2, 60, 3, 4)
    for _ in range(120):
        step = episodes.step()
        replay.write(step)
        naive.write(step)
        if replay.has_window:
            assert_batch_is_naive(replay.sample(), naive)
    for size in (16, 7):
        assert_batch_is_naive(replay.sample(size), naive)
    assert_batch_is_naive(replay.peek(7, torch.Generator().manual_seed(0)), naive)


# ---------------------------------------------------------------------------------- how they are drawn


@pytest.mark.parametrize(("steps", "lanes"), [(7, 1), (90, 1), (60, 3)])
def test_every_window_is_as_likely(steps, lanes):
    replay = rings(num_lanes=lanes, batch_size=500)
    run(replay, Episodes(lanes, 3, longest=9), steps)
    counts: Counter = Counter()
    for _ in range(40):
        windows, _ = replay._windows.sample(replay._records, 500)
        at, numbers = replay._records.records_in(windows.frames[:, -1])
        counts.update(zip(at.tolist(), numbers.tolist(), strict=True))
    wanted = {(lane, number) for lane, number, _ in slow_windows(replay)}
    assert counts.keys() == wanted
    even = 40 * 500 / len(wanted)
    chi2, freedom = sum((counts[key] - even) ** 2 / even for key in wanted), len(wanted) - 1
    assert chi2 < freedom + 5 * math.sqrt(2 * freedom)


def test_seed_decides_and_no_other_generator_moves():
    replays = [rings(seed=1), rings(seed=1), rings(seed=2)]
    before, host = torch.get_rng_state(), replays[0]._windows._rng.get_state()
    batches = [run(replay, Episodes(1, 3), 40) for replay in replays]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(host, replays[0]._windows._rng.get_state())
    for one, two in zip(*batches[:2], strict=True):
        assert_same_batch(one, two)
    assert not torch.equal(batches[0][-1]["action"], batches[2][-1]["action"])


def test_nothing_is_read_back():
    replay = rings(num_lanes=2)
    run(replay, Episodes(2, 3, life_loss=0.2), 60)
    buffers = replay._records.take_buffers(16 * 3)
    with no_waiting():
        batch = replay._recorded._make(buffers)
    assert batch["pixels"].data_ptr() == buffers[0].data_ptr()


def test_to_begin_a_batch_ahead_changes_nothing():
    plain, ahead = rings(), rings()
    for replay in (plain, ahead):
        run(replay, Episodes(1, 3), 30)
    for _ in range(8):
        ahead.sample_ahead()
        assert ahead._ahead is None
        assert_same_batch(ahead.sample(), plain.sample())


def test_by_age_is_refused():
    with pytest.raises(AssertionError, match="another way"):
        rings().weigh_by_age(AgeWeights(5, 0.5))


# ---------------------------------------------------------------------------------- recorded


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_recording_repeats_no_decision_of_python(lanes, monkeypatch, tmp_path):
    """Beside a replay that records nothing: while records come and leave, with another horizon, after a resume."""
    options: dict[str, Any] = {"num_lanes": lanes, "slack": 60}
    plain = rings(**options, folder=tmp_path / "plain")
    monkeypatch.setattr(recorded, "recorder_for", lambda device: PretendGraphs())
    graphed = rings(**options, folder=tmp_path / "graphed")
    both, source = (plain, graphed), Episodes(lanes, 3, life_loss=0.2)
    batches = 0

    def go_on(steps: int) -> int:
        sampled = 0
        for _ in range(steps):
            step = source.step()
            for replay in both:
                replay.write(step)
            if plain.has_window:
                kept = [replay.sample() for replay in both]
                copies = [batch.clone() for batch in kept]
                after = [replay.sample() for replay in both]
                assert_same_batch(*kept)
                assert_same_batch(*after)
                assert_same_batch(kept[1], copies[1])  # survives one further sample
                sampled += 2
        return sampled

    recorder = graphed._recorded._recorder
    batches = go_on(80)
    assert (recorder.captures, recorder.replays) == (2, batches - WARM_UP)
    for replay in both:
        replay.set_horizon(2, 0.5)
    batches += go_on(10)
    assert (recorder.captures, recorder.replays) == (4, batches - 2 * WARM_UP)
    kept = graphed.sample()
    small = {name: kept[name].clone() for name in ("action", "reward", "discount")}
    plain.sample()
    for _ in range(6):
        assert_same_batch(graphed.sample(), plain.sample())
    assert all(torch.equal(kept[name], value) for name, value in small.items()), "observations alone are overwritten"
    states = [through_file(replay.state_dict()) for replay in both]
    go_on(5)
    for replay, state in zip(both, states, strict=True):
        replay.load_state_dict(state)
    captures = recorder.captures
    assert go_on(10) > WARM_UP
    assert recorder.captures == captures + 2, "the records lie elsewhere"


def test_a_horizon_that_is_set_there_and_back_leaves_a_recording_right(monkeypatch):
    """As ``AnnealHorizon`` does where no longer window is there yet: what a recording reads must stay where it is."""
    monkeypatch.setattr(recorded, "recorder_for", lambda device: PretendGraphs())
    replay, in_use = rings(), []
    draw = replay._windows.rings.draw

    def noted(*args: Any) -> Any:
        in_use.append(replay._windows.rings._ahead)
        return draw(*args)

    monkeypatch.setattr(replay._windows.rings, "draw", noted)
    run(replay, Episodes(1, 3), 40)
    recorder = replay._recorded._recorder
    assert recorder.captures == 2
    for n_step, discount in ((5, 0.99), (3, 0.99)):
        replay.set_horizon(n_step, discount)
    for _ in range(WARM_UP + 2):
        replay.sample()
    assert in_use[-1] is replay._windows.rings._ahead, "the last that was recorded"
    assert torch.equal(in_use[-1], torch.arange(3))
    replay.set_horizon(5, 0.99)
    for _ in range(WARM_UP + 2):
        replay.sample()
    assert in_use[-1] is replay._windows.rings._ahead
    assert torch.equal(in_use[-1], torch.arange(5)), "n has changed between two batches"


# ---------------------------------------------------------------------------------- going on


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("steps", [5, 31, 120])
def test_kill_and_resume_is_exact(lanes, steps, tmp_path):
    options: dict[str, Any] = {"num_lanes": lanes, "slack": 40, "draw_on_device": True}
    twin, twin_episodes = make(**options), Episodes(lanes, 3, life_loss=0.1)
    replay, episodes = make(**options, folder=tmp_path), Episodes(lanes, 3, life_loss=0.1)
    for _ in range(3):
        for one, two in zip(run(replay, episodes, steps), run(twin, twin_episodes, steps), strict=True):
            assert_same_batch(one, two)
        state = through_file(replay.state_dict())
        run(replay, Episodes(lanes, 3, seed=99), 15)  # lost
        replay = make(**options, folder=tmp_path)
        replay.load_state_dict(state)
    for one, two in zip(run(replay, episodes, 40), run(twin, twin_episodes, 40), strict=True):
        assert_same_batch(one, two)


def test_without_the_option_the_host_draws_on_and_with_it_the_device_begins(tmp_path):
    host, device = make(folder=tmp_path / "host", slack=9), rings(folder=tmp_path / "device", slack=9)
    for replay in (host, device):
        run(replay, Episodes(1, 3), 40)
    states = [through_file(replay.state_dict()) for replay in (host, device)]
    begun, ended = rings(folder=tmp_path / "host", slack=9), make(folder=tmp_path / "device", slack=9)
    begun.load_state_dict(states[0])
    ended.load_state_dict(states[1])
    assert torch.equal(begun._windows.generator.get_state(), rings()._windows.generator.get_state())
    assert torch.equal(ended._windows._rng.get_state(), make()._windows._rng.get_state()), "it had drawn nothing"
    assert begun.sample().batch_size == ended.sample().batch_size == (16,)
    for one, two in zip((begun, ended), (host, device), strict=True):
        assert slow_windows(one) == slow_windows(two)


@pytest.mark.parametrize("overlap", [False, True])
def test_a_killed_training_goes_on_exactly(overlap, tmp_path):
    options = {**FROM_STATES, "data_options": {**FROM_STATES["data_options"], "overlap": overlap}}
    options["agent_options"] = {"replay_ratio": 1.5}
    straight = fit_tiny(tmp_path / "straight", **options)
    with pytest.raises(Killed):
        fit_tiny(tmp_path / "run", callbacks=[DieAt(150)], **options)
    resumed = fit_tiny(tmp_path / "run", ckpt_path="last", **options)
    assert straight.data.replay._recorded is not None
    assert differences(run_state(resumed), run_state(straight)) == []


def test_the_option_may_change_when_a_run_goes_on(tmp_path):
    data = {"observation": "state", "storage": "device"}
    plain = fit_tiny(tmp_path, make_agent=tiny_sac, data_options=data, max_frames=100)
    assert plain.data.replay._recorded is None
    for on, frames in ((True, 200), (False, 300)):
        options = {**data, "draw_on_device": on}
        agent = fit_tiny(tmp_path, make_agent=tiny_sac, data_options=options, max_frames=frames, ckpt_path="last")
        assert (agent.data.replay._recorded is not None) == on
        said = {change["option"] for change in agent.changes_of_this_start}
        assert f"data.draw_on_device {not on} -> {on}" in said


def test_on_a_gpu_nothing_meets_tensors_of_the_host(tmp_path, monkeypatch):
    """It ends with the bits of a CPU, also where it goes on."""
    monkeypatch.setattr(recorded, "recorder_for", lambda device: EagerRecorder())
    for frames, ckpt_path in ((100, None), (200, "last")):
        options = {"ckpt_path": ckpt_path, "max_frames": frames, **FROM_STATES}
        with pretend_gpu():
            on_gpu = fit_tiny(tmp_path / "gpu", trainer_options=trainer_options(), **options)
    assert on_gpu.data.replay._windows.rings.device.type == "cuda"
    on_cpu = fit_tiny(tmp_path / "cpu", **FROM_STATES)
    assert on_gpu.num_updates
    assert weights_hash(on_gpu) == weights_hash(on_cpu)
    drawn_by_the_host = fit_tiny(tmp_path / "plain", make_agent=tiny_sac, data_options={"observation": "state"})
    assert weights_hash(drawn_by_the_host) != weights_hash(on_cpu), "other transitions"
