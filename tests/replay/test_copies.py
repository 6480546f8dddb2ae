"""Batches on a GPU: their buffers are not written again before the GPU has read them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tensordict import TensorDict, TensorDictBase

from benchmarks.contestants.inside import episode_steps
from plasticity_rl.replay.buffer import FrameReplay

OBS_SHAPE, BATCH = (9, 16, 16), 8
BATCHES = 7


def filled_replay() -> FrameReplay:
    replay = FrameReplay(obs_shape=OBS_SHAPE, action_dim=2, capacity=200, batch_size=BATCH, seed=3)
    for step in episode_steps(OBS_SHAPE, 2, length=100):
        replay.write(step)
    return replay


class LateGPU:
    """Does its copies only when it is waited for, as a GPU does that has updates to finish first."""

    def __init__(self) -> None:
        self._queue: list[Callable[[], object]] = []

    def to_gpu(self, batch: TensorDictBase) -> TensorDict:
        there = TensorDict(batch_size=batch.batch_size)
        self._queue.append(lambda: there.update(batch.clone()))
        return there

    def record_event(self) -> LateGPU.Event:
        return self.Event(self, len(self._queue))

    class Event:
        def __init__(self, gpu: LateGPU, end: int) -> None:
            self._gpu, self._end = gpu, end

        def synchronize(self) -> None:
            for index in range(self._end):
                self._gpu._queue[index]()
                self._gpu._queue[index] = lambda: None


def plain(replay: FrameReplay, to_gpu: Callable[[TensorDictBase], TensorDictBase]) -> list[TensorDictBase]:
    return [to_gpu(replay.sample()) for _ in range(BATCHES)]


def begun_ahead(replay: FrameReplay, to_gpu: Callable[[TensorDictBase], TensorDictBase]) -> list[TensorDictBase]:
    batches = []
    for index in range(BATCHES):
        batches.append(to_gpu(replay.sample()))
        if index % 4 != 3 and index < BATCHES - 1:  # as the agent does: not before an env step
            replay.sample_ahead()
    return batches


def of_the_first_transitions(
    replay: FrameReplay, to_gpu: Callable[[TensorDictBase], TensorDictBase]
) -> list[TensorDictBase]:
    ends, generator = replay.first_records(50), torch.Generator().manual_seed(0)
    return [to_gpu(replay.sample_first(ends, generator)) for _ in range(BATCHES)]


WAYS = (plain, begun_ahead, of_the_first_transitions)


def expected(way: Callable) -> list[TensorDictBase]:
    return way(filled_replay(), lambda batch: batch.clone())


def assert_equal(found: list[TensorDictBase], wanted: list[TensorDictBase]) -> None:
    assert [bool((a.cpu() == b).all()) for a, b in zip(found, wanted, strict=True)] == [True] * BATCHES


@pytest.mark.parametrize("way", WAYS)
def test_a_late_copy_reads_its_own_batch(way, monkeypatch):
    wanted, gpu = expected(way), LateGPU()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: gpu)
    found = way(filled_replay(), gpu.to_gpu)
    assert [len(there.keys()) > 0 for there in found][-2:] == [False, False]  # the last two need not be waited for
    gpu.record_event().synchronize()
    assert_equal(found, wanted)


@pytest.mark.gpu
@pytest.mark.parametrize("way", WAYS)
def test_a_busy_gpu_reads_every_batch_as_it_was_sampled(way):
    wanted, replay = expected(way), filled_replay()
    torch.cuda._sleep(int(1e9))  # half a second and more in front of the first copy
    assert_equal(way(replay, lambda batch: batch.to("cuda")), wanted)
