"""Work is recorded without being done, and replays draw on and write into the same tensors."""

from __future__ import annotations

import warnings

import pytest
import torch
from pretend_graph import PretendGraphs

from plasticity_rl.nn.graphed import EagerRecorder, GraphRecorder, recorder_for, register


def drawing(device: str):
    """Return work that moves a tensor by a random number, the tensor, and the generator."""
    generator = torch.Generator(device).manual_seed(0)
    place = torch.zeros(3, device=device)

    def work():
        noise = torch.randn(3, generator=generator, device=device)
        place.add_(noise)
        return {"noise": noise * 2}

    return work, place, generator


def by_hand(device: str, times: int):
    work, place, _ = drawing(device)
    results = [work()["noise"] for _ in range(times)]
    return place, results


def check(recorder, device: str) -> None:
    work, place, generator = drawing(device)
    recorder.run(work)  # the first of four
    before, state = place.clone(), generator.get_state()
    result, replay = recorder.record(work, [generator])
    assert torch.equal(place, before)
    assert torch.equal(generator.get_state(), state)
    expected, results = by_hand(device, 4)
    for index in range(1, 4):
        found = replay()
        assert recorder.records == (found is result)
        assert torch.equal(found["noise"], results[index])
    assert torch.equal(place, expected)
    assert torch.equal(generator.get_state(), by_hand_state(device, 4))


def by_hand_state(device: str, times: int):
    work, _, generator = drawing(device)
    for _ in range(times):
        work()
    return generator.get_state()


def test_without_a_gpu_a_replay_does_the_work():
    check(recorder_for(torch.device("cpu")), "cpu")
    assert isinstance(recorder_for(torch.device("cpu")), EagerRecorder)


def test_pretended_graphs_repeat_what_was_recorded():
    check(PretendGraphs(), "cpu")


def test_pretended_graphs_keep_the_numbers_of_python():
    """Else no test would see a stale replay."""
    factor, place = [2.0], torch.ones(2)
    _, replay = PretendGraphs().record(lambda: place.mul_(factor[0]), [])
    factor[0] = 10.0
    replay()
    assert place.tolist() == [2.0, 2.0]


def test_pretended_graphs_refuse_what_waits():
    place = torch.ones(())
    with pytest.raises(RuntimeError, match="operation not permitted when stream is capturing"):
        PretendGraphs().record(lambda: place.item(), [])


@pytest.mark.gpu
def test_graphs_of_a_gpu():
    recorder = recorder_for(torch.device("cuda"))
    assert isinstance(recorder, GraphRecorder)
    check(recorder, "cuda")
    check(recorder, "cuda")  # a second graph, in the same memory


def test_a_generator_is_registered_where_torch_still_wants_it():
    """Newer versions warn, and a warning of ours would be an error here; later ones have no such method."""

    class Deprecated:
        def register_generator_state(self, generator: torch.Generator) -> None:
            warnings.warn("is now a no-op", DeprecationWarning, stacklevel=2)
            registered.append(generator)

    registered: list[torch.Generator] = []
    generator = torch.Generator()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register(Deprecated(), generator)
        register(object(), generator)
    assert registered == [generator]
