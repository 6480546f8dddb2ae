"""Windows drawn where the records lie, by tensor operations alone (``data.draw_on_device``).

The host knows which windows are complete, since it writes the records; it keeps a list of them on the device up to date
by small copies that wait for nothing. What is drawn from the list never comes back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from plasticity_rl.replay.copies import sent
from plasticity_rl.replay.sampler import Anchors, WindowSampler, window_slots
from plasticity_rl.replay.storage import FrameStorage, FrameWindows

DRAWN_FROM = 2**62
"""Range of the integers that are drawn, whose rest of a division by the number of windows W chooses one. The chances of
two windows then differ by a share of at most W / 2**62: less than 1e-12 up to 4 million windows."""


class WindowRings:
    """The complete windows of every lane, in a ring each, on a device.

    They come and go in the order of the records where they begin. A window leaves with the first record that it needs,
    ``number - min(step, frame_stack - 1)``, which never falls along a lane: it stays at the reset frame, then moves by
    one, and later episodes lie behind. Within an episode the record that completes a window (the one n later, or the
    one that follows the first discount of 0) never falls either, and an episode is all written before the next begins:
    who was passed over is never complete. A window that a discount of 0 has ended may get longer, in its place.

    So a draw is the rank of a window among all of its lane, counted from the head of the ring: where the ring begins,
    which a resumed run does not know, changes no number.

    Args:
        storage: Where the records are.
        frame_stack: Frames per observation.
        n_step: Transitions per window.
        device: Where windows are drawn: where the records lie.

    Attributes:
        total: Number of windows that are in the rings.
    """

    def __init__(self, storage: FrameStorage, frame_stack: int, n_step: int, device: torch.device) -> None:
        lanes, self._size = storage.layout.num_lanes, storage.layout.lane_length
        self.device, self.frame_stack, self._storage = device, frame_stack, storage
        self._past = torch.arange(1 - frame_stack, 1, device=device)
        # There: number, reset and length of each window; of each lane where its windows end among those of all lanes,
        # and what leads from a position among all of them to the one in its ring.
        self._entries = torch.zeros(lanes * self._size, 3, dtype=torch.int64, device=device)
        self._bounds = torch.zeros(2, lanes, dtype=torch.int64, device=device)
        # Here: the first record that each window needs, counts of windows that have left and that have come, the number
        # of the newest.
        self._needs = torch.zeros(lanes, self._size, dtype=torch.int64)
        self._head, self._tail, self._newest = (torch.empty(lanes, dtype=torch.int64) for _ in range(3))
        self._ahead_of: dict[int, Tensor] = {}
        self.set_n_step(n_step)

    def set_n_step(self, n_step: int) -> None:
        """Hold windows of another length from now on, and none at first."""
        # One for each n, for good: a recording reads its own, and is used again once n is what it was.
        self._ahead = self._ahead_of.setdefault(n_step, torch.arange(n_step, device=self.device))
        self.forget()

    def forget(self) -> None:
        """Hold no windows."""
        self._head.zero_()
        self._tail.zero_()
        self._newest.fill_(-1)
        self.total = 0

    def drop(self, oldest: Tensor, most: int) -> None:
        """Let windows go that need a record before the oldest live one.

        Args:
            oldest: int64 [num_lanes], numbers of the oldest live records.
            most: Records that any lane has lost since the last call, or more. With them go at most as many windows, and
                those that begin within ``frame_stack - 1`` records behind.
        """
        ranks = self._head[:, None] + torch.arange(min(most + self.frame_stack, self._size))
        needs = self._needs.gather(1, ranks % self._size)
        self._head += ((needs < oldest[:, None]) & (ranks < self._tail[:, None])).sum(1)

    def put(self, anchors: Anchors, steps: Tensor) -> None:
        """Take in all complete windows from some record of each lane on, some of which may be here already.

        Args:
            anchors: On the host, in the order of lanes and then of numbers; of a lane all behind the first of them.
            steps: int64 [K], positions of their records in their episodes.
        """
        lanes, numbers, lengths = anchors
        counts = lanes.bincount(minlength=len(self._head))
        self._tail += lanes[numbers > self._newest[lanes]].bincount(minlength=len(self._head))
        if len(lanes):
            # The last so many of the ring: those that are here already, and then the new ones.
            order = torch.arange(len(lanes)) - (counts.cumsum(0) - counts)[lanes]
            places = lanes * self._size + ((self._tail - counts)[lanes] + order) % self._size
            self._needs.view(-1)[places] = numbers - steps.clamp(max=self.frame_stack - 1)
            self._newest.scatter_reduce_(0, lanes, numbers, "amax")
            there = sent(torch.stack([places, numbers, numbers - steps, lengths]), self.device)
            self._entries.index_copy_(0, there[0], there[1:].t())
        held = self._tail - self._head
        ends = held.cumsum(0)
        self._bounds.copy_(sent(torch.stack([ends, self._head - (ends - held)]), self.device))
        self.total = int(ends[-1])

    def draw(self, batch_size: int, generator: torch.Generator) -> FrameWindows:
        """Draw windows uniformly over all of all lanes, with replacement; nothing is read back.

        Args:
            batch_size: B, at least 1.
            generator: Source of all random numbers, on the device.

        Returns:
            The slots of their records, on the device. They mean nothing where ``total`` is 0.
        """
        ends, shift = self._bounds.unbind(0)
        draws = torch.randint(DRAWN_FROM, (batch_size,), generator=generator, device=self.device) % ends[-1]
        lanes = torch.searchsorted(ends, draws, right=True)
        places = lanes * self._size + (draws + shift.index_select(0, lanes)) % self._size
        numbers, resets, lengths = self._entries.index_select(0, places).unbind(1)
        return window_slots(self._storage, Anchors(lanes, numbers, lengths), resets, self._past, self._ahead)


class RingSampler(WindowSampler):
    """Draws the batches of :meth:`sample` on a device; all other draws are those of :class:`WindowSampler`.

    Both draw uniformly over the same windows, but with numbers of different generators.

    Args:
        frame_stack: Frames per observation, at least 1.
        n_step: Transitions per window, at least 1.
        storage: Where the records are.
        seed: Seed of the generator on the device.
    """

    def __init__(self, frame_stack: int, n_step: int, storage: FrameStorage, seed: int) -> None:
        super().__init__(frame_stack, n_step)
        device = storage.kept_on or torch.device("cpu")
        self.rings = WindowRings(storage, frame_stack, n_step, device)
        self._seed = seed
        self.generator = torch.Generator(device).manual_seed(seed)
        """Source of the windows of :meth:`sample`, on the device."""
        self._seen: Tensor | None = None  # records of each lane that the rings know of; None: they hold nothing
        self._oldest = storage.oldest

    def sample(self, storage: FrameStorage, batch_size: int) -> tuple[FrameWindows, dict[str, Any]]:
        """Draw ``batch_size`` windows, whose slots are on the device."""
        self.catch_up(storage)
        return self.rings.draw(batch_size, self.generator), {}

    def catch_up(self, storage: FrameStorage) -> None:
        """Tell the rings what was written since the last call; linear in that.

        Raises:
            RuntimeError: If there is no complete window yet.
        """
        written = storage.written
        if self._seen is None or not torch.equal(self._seen, written):
            oldest = storage.oldest
            first = oldest
            if self._seen is not None:  # a record completes windows, or lengthens them, up to n before it
                first = torch.maximum(self._seen - self.n_step, oldest)
                self.rings.drop(oldest, int((oldest - self._oldest).max()))
            anchors = self.complete_anchors(storage, first=first)
            self.rings.put(anchors, storage.step[storage.slot(anchors.lanes, anchors.numbers)])
            self._seen, self._oldest = written.clone(), oldest
        if not self.rings.total:
            self.require_windows(storage)

    def set_n_step(self, n_step: int) -> None:
        """Draw windows of another length from now on; the next draw is linear in the records."""
        super().set_n_step(n_step)
        self.rings.set_n_step(n_step)
        self._seen = None

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both generators; the rings follow from the records."""
        return {**super().state_dict(), "device_generator": self.generator.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Where another sampler, or one on another kind of device, returned it, the generator on the device begins anew.
        """
        super().load_state_dict(state_dict)
        self._forget()
        self.generator.manual_seed(self._seed)
        saved = state_dict.get("device_generator")
        if saved is not None and saved.shape == self.generator.get_state().shape:
            self.generator.set_state(saved.cpu())

    def _empty(self) -> None:
        super()._empty()
        self._forget()

    def _forget(self) -> None:
        self.rings.forget()
        self._seen = None
