"""Sampler of complete n-step windows in proportion to priorities: prioritized replay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from plasticity_rl.errors import within
from plasticity_rl.replay.sampler import Anchors, WindowSampler
from plasticity_rl.replay.storage import FrameStorage, FrameWindows
from plasticity_rl.replay.sum_tree import SumTree

SMALLEST = 1e-10
"""Added to every loss, so that a transition that is learned keeps being drawn now and then (as in Dopamine)."""


class Priorities(NamedTuple):
    """How batches are drawn by priority.

    Attributes:
        exponent: Priorities count to this power, in [0, 1]; at 0 all are equal.
        beta: Returns how much the importance weights correct for now, in [0, 1]; at 1 fully.
    """

    exponent: float
    beta: Callable[[], float]


class PrioritizedWindows(WindowSampler):
    r"""Draws complete windows in proportion to :math:`p_i^\omega`, the proportional variant of Schaul et al. 2016.

    Anchors are those of :class:`WindowSampler`, of which a sum tree over all slots has the weights; it is 0 wherever no
    complete window begins. A window has the largest priority so far (1 at the beginning, and again when the replay is
    emptied) from the record on that completes it, until :meth:`update`; a priority is the loss that was last seen there
    plus ``SMALLEST``. A batch is drawn from equal parts of the sum of all weights, and is in random order. It has

    * ``weight`` float32 [B, 1], :math:`(N P_i)^{-\beta}` over the largest of the batch, as in Dopamine and DQN Zoo
      (then N, the number of windows, does not matter);
    * ``index`` and ``number`` int64 [B], slot and number of the record where the window begins, for :meth:`update`.

    The windows of :meth:`draw` and :meth:`draw_distinct` stay uniform and have none of these.

    Why not TorchRL's ``PrioritizedSampler``: its trees are C++ that does not load beside every torch we allow, it knows
    neither which windows are complete nor which record a slot held when it was drawn, and it draws with numpy's global
    generator.

    Reference: Schaul et al. 2016 (arXiv 1511.05952), equation 1 and section 3.4. Rainbow (Hessel et al. 2018, arXiv
    1710.02298) takes the loss for the error.

    Differences from DQN Zoo: it draws a batch independently and one transition in a thousand uniformly, and clips
    losses at 100.

    Args:
        frame_stack: Frames per observation, at least 1.
        n_step: Transitions per window, at least 1.
        storage: Where the records are.
        priorities: See :class:`Priorities`.

    Raises:
        UserError: If the exponent is not in [0, 1].
    """

    def __init__(self, frame_stack: int, n_step: int, storage: FrameStorage, priorities: Priorities) -> None:
        super().__init__(frame_stack, n_step)
        within("data.priority_exponent", priorities.exponent, "[0, 1]")
        self.exponent, self.beta = priorities.exponent, priorities.beta
        self.max_priority = 1.0
        """Largest loss so far, plus ``SMALLEST``; at least 1."""
        self.tree = SumTree(storage.layout.slots)
        self._followed = storage
        self._seen = storage.written.clone()  # records of each lane that the tree knows of
        self._oldest = storage.oldest

    def sample(self, storage: FrameStorage, batch_size: int) -> tuple[FrameWindows, dict[str, Any]]:
        """Draw ``batch_size`` windows by priority with the buffer's generator, with what comes with them."""
        self.require_windows(storage)
        slots = self.tree.draw(torch.rand(batch_size, dtype=torch.float64, generator=self._rng).numpy())
        slots = slots[torch.randperm(batch_size, generator=self._rng).numpy()]  # a part of a batch is a sample too
        weights = self.tree[slots]
        correction = (weights.min() / weights) ** self.beta()
        index = torch.from_numpy(slots)
        lanes, numbers = storage.records_in(index)
        lengths = self._lengths(storage, lanes, numbers, storage.written)
        assert lengths.all(), "the tree has a weight where no complete window begins"
        extras = {"weight": torch.from_numpy(correction.astype(np.float32))[:, None], "index": index, "number": numbers}
        return self._windows(storage, Anchors(lanes, numbers, lengths))._replace(extras=extras), {}

    def update(self, index: Tensor, number: Tensor, losses: Tensor) -> None:
        """Set the priorities of windows that can still be drawn; of one that is there twice, the last loss counts.

        Args:
            index: int64 [K], slots, from a batch.
            number: int64 [K], the numbers of the records that they held, likewise.
            losses: [K], at least 0. One that is not finite changes nothing (``detect_nan`` ends such a run).
        """
        finite = torch.isfinite(losses.float())
        index, number, losses = index[finite], number[finite], losses[finite].float().double()
        assert not (losses < 0).any(), "losses are at least 0"
        if not len(losses):
            return
        slots, priorities = index.numpy(), losses.numpy() + SMALLEST
        self.max_priority = max(self.max_priority, float(priorities.max()))
        same = (self._followed.records_in(index)[1] == number).numpy() & (self.tree[slots] > 0)
        self.tree.set(slots[same], priorities[same] ** self.exponent)

    def extend(self, index: Tensor) -> None:
        """Follow the records that were just written."""
        self.follow()

    def follow(self) -> None:
        """Give a weight to windows that records since the last call completed, none to those that have left."""
        super().follow()
        storage, written, oldest = self._followed, self._followed.written, self._followed.oldest
        for lane, seen, end, before, now in zip(
            range(len(written)), *(each.tolist() for each in (self._seen, written, self._oldest, oldest)), strict=True
        ):
            if now > before:
                self._leave(lane, before, now, end)
            if end > seen:
                # A record completes the window n before it and, where it follows a discount of 0, those in between.
                slots = storage.layout.lane_slots
                one = end == seen + 1 and (end < 2 or storage.discount[lane * slots + (end - 2) % slots].item() != 0)
                self._enter(lane, max(seen - self.n_step, now), seen - self.n_step + 1 if one else end)
        self._seen, self._oldest = written.clone(), oldest

    def can_sample(self, storage: FrameStorage, batch_size: int) -> bool:
        """Return whether there is at least one complete window."""
        return self.tree.total > 0

    def state_dict(self) -> dict[str, Any]:
        """Return generator, weights (float32 [slots]) and the largest priority."""
        weights = torch.from_numpy(self.tree.leaves)
        return {**super().state_dict(), "weights": weights, "max_priority": self.max_priority}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, once the storage is restored.

        Complete windows without a weight get the largest: all of them where batches were drawn uniformly before, and
        those that only another n completes. The largest stays where the records are gone: the run goes on as it would
        with them, in the same task, and its losses are as large.
        """
        super().load_state_dict(state_dict)
        self.max_priority = state_dict.get("max_priority", 1.0)
        self._give_weights(state_dict.get("weights"))

    def set_n_step(self, n_step: int) -> None:
        """Draw windows of another length from now on, those that it completes with the largest priority. Linear."""
        super().set_n_step(n_step)
        self._give_weights(torch.from_numpy(self.tree.leaves))

    def _give_weights(self, saved: Tensor | None) -> None:
        """Give every complete window its weight of ``saved``, or where it has none the largest; all others none."""
        storage = self._followed
        anchors = self.complete_anchors(storage)
        slots = storage.slot(anchors.lanes, anchors.numbers)
        weights = torch.zeros(storage.layout.slots)
        if len(slots):
            known = weights[slots] if saved is None else saved[slots]
            weights[slots] = torch.where(known > 0, known, float(self._new_weight))
        self.tree.rebuild(weights.numpy())
        self._seen, self._oldest = storage.written.clone(), storage.oldest

    def _empty(self) -> None:
        super()._empty()
        self.max_priority = 1.0
        self.tree.rebuild(np.zeros(self.tree.num_leaves))

    @property
    def _new_weight(self) -> np.float32:
        return np.float32(self.max_priority**self.exponent)

    def _leave(self, lane: int, before: int, now: int, end: int) -> None:
        """Take the weights of the records from ``before`` to ``now``, and of windows that need a frame of theirs."""
        numbers = torch.arange(before, min(now + self.frame_stack - 1, end))
        slots = self._followed.slot(torch.tensor(lane), numbers)
        first_frames = numbers - self._followed.step[slots].clamp(max=self.frame_stack - 1)
        gone = slots[first_frames < now].numpy()
        self.tree.set(gone, np.zeros(len(gone)))

    def _enter(self, lane: int, first: int, end: int) -> None:
        """Give a weight to the complete windows that begin from ``first`` to ``end`` and have none."""
        storage, numbers = self._followed, torch.arange(first, max(first, end))
        lanes = torch.full_like(numbers, lane)
        slots = storage.slot(lanes, numbers)
        complete = self._lengths(storage, lanes, numbers, storage.written) > 0
        fresh = slots[complete].numpy()
        fresh = fresh[self.tree[fresh] == 0]
        self.tree.set(fresh, np.full(len(fresh), self._new_weight))
