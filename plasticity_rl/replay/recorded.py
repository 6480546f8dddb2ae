"""Batches that are drawn on a device: recorded once for each buffer, and replayed."""

from __future__ import annotations

import functools
from collections.abc import Callable

from tensordict import TensorDictBase
from torch import Tensor

from plasticity_rl.nn.graphed import WARM_UP, recorder_for
from plasticity_rl.replay.folding import FoldNStep
from plasticity_rl.replay.rings import RingSampler
from plasticity_rl.replay.storage import FrameStorage


class RecordedBatches:
    """Draws, gathers and folds batches of the buffered size; on a GPU one launch each, instead of some thirty.

    Their observations lie in the two alternating buffers of the storage, so there are two recordings. Another n,
    another discount or other memory of the records makes new ones, after some batches without: while an intervention
    changes the discount before every update, none is recorded. Everything else is in tensors that stay where they are.

    Args:
        sampler: Draws.
        storage: Where the records are.
        fold: What becomes of a batch of windows.
    """

    def __init__(self, sampler: RingSampler, storage: FrameStorage, fold: FoldNStep) -> None:
        self._sampler, self._storage, self._fold = sampler, storage, fold
        self._recorder = recorder_for(sampler.rings.device)
        self._made = 0
        self._replays: dict[int, Callable[[], TensorDictBase]] = {}
        self._horizon = sampler.n_step, fold.discount
        self._memory: Tensor | None = None

    def __call__(self) -> TensorDictBase:
        """Return a batch.

        Raises:
            RuntimeError: If there is no complete window yet.
        """
        storage = self._storage
        self._sampler.catch_up(storage)
        self._forget_what_has_changed()
        buffers = storage.take_buffers(storage.buffered_batch * self._sampler.frame_stack)
        if self._made < WARM_UP:
            self._made += 1
            return self._recorder.run(functools.partial(self._make, buffers))
        if id(buffers) not in self._replays:
            work = functools.partial(self._make, buffers)  # keeps them, so that the id stays theirs
            _, self._replays[id(buffers)] = self._recorder.record(work, [self._sampler.generator])
        batch = self._replays[id(buffers)]()
        return _own(batch) if self._recorder.records else batch

    def _forget_what_has_changed(self) -> None:
        horizon, memory = (self._sampler.n_step, self._fold.discount), self._storage.step
        if horizon != self._horizon or memory is not self._memory:  # all columns are allocated together
            self._made, self._replays = 0, {}
        self._horizon, self._memory = horizon, memory

    def _make(self, buffers: tuple[Tensor, Tensor]) -> TensorDictBase:
        windows = self._sampler.rings.draw(self._storage.buffered_batch, self._sampler.generator)
        return self._fold(self._storage.gather(windows, buffers))


def _own(batch: TensorDictBase) -> TensorDictBase:
    """Return a copy of all but the observations: replays of either recording write into the same memory."""
    own = batch.copy()
    for name in ("action", "reward", "discount"):
        own.set(name, batch.get(name).clone())
    return own
