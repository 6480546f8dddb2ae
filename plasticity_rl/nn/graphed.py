"""Work that is recorded once and replayed: ``torch.cuda.CUDAGraph``, and what takes its place where there is no GPU.

Our own small wrapper: ``tensordict.nn.CudaGraphModule`` waits for the GPU at every call and registers no generators,
and ``torch.cuda.make_graphed_callables`` graphs forward and backward passes, without the steps of optimizers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch

WARM_UP = 3
"""Times that work is done without a recording first, as a capture wants it: what is made once is there then."""
Work = Callable[[], Any]
"""Reads and writes tensors that stay where they are, and returns some."""


class Recorder(Protocol):
    """Does work, or records it."""

    records: bool
    """Whether a replay repeats what was launched, without the Python that launched it."""

    def run(self, work: Work) -> Any:
        """Do the work now and return what it returns."""

    def record(self, work: Work, generators: Iterable[torch.Generator]) -> tuple[Any, Callable[[], Any]]:
        """Record the work without doing it.

        Args:
            work: Has run before, three times or so: what is made once (states of optimizers, plans of libraries) is
                there.
            generators: All that it draws from.

        Returns:
            What the work returned, tensors that hold nothing yet; and what does it: replays fill the same tensors, and
            return them.
        """


class GraphRecorder:
    """Records what the work launches on a GPU as a CUDA graph.

    All graphs of one recorder share their memory. That is right as long as none runs beside another, and everything
    that a graph leaves behind is read, or copied, before another one is replayed.

    Args:
        device: GPU that the work is done on.
    """

    records = True

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._device, self._pool = device, torch.cuda.graph_pool_handle()

    def run(self, work: Work) -> Any:
        """Do the work on the stream on which it will be recorded, as capture wants it warmed up."""
        here = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            result = work()
        here.wait_stream(self._stream)
        return result

    def record(self, work: Work, generators: Iterable[torch.Generator]) -> tuple[Any, Callable[[], Any]]:
        """Capture; nothing is launched, and no generator moves, before the first replay."""
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            if generator.device.type == "cuda":  # those of torch itself are registered anyway
                register(graph, generator)
        # Others may copy batches and allocate meanwhile: threads of the replay and of environments.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            result = work()

        def replay() -> Any:
            graph.replay()
            return result

        return result, replay


def register(graph: Any, generator: torch.Generator) -> None:
    """Let a graph move a generator at every replay, where torch does not see to that by itself.

    torch 2.14 does, says that the call is deprecated, and will take it away.
    """
    if hasattr(graph, "register_generator_state"):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            graph.register_generator_state(generator)


class EagerRecorder:
    """Records nothing: a replay does the work."""

    records = False

    def run(self, work: Work) -> Any:
        """Do the work."""
        return work()

    def record(self, work: Work, generators: Iterable[torch.Generator]) -> tuple[Any, Callable[[], Any]]:
        """Return no result, and the work."""
        return None, work


def recorder_for(device: torch.device) -> Recorder:
    """Return what records work on a device."""
    return GraphRecorder(device) if device.type == "cuda" else EagerRecorder()
