"""Sampler of complete n-step windows over all lanes of a :class:`~plasticity_rl.replay.storage.FrameStorage`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor
from torchrl.data.replay_buffers.samplers import Sampler

from plasticity_rl.replay.ages import AgeWeights
from plasticity_rl.replay.storage import FrameStorage, FrameWindows

_REJECTION_ROUNDS = 8


class Anchors(NamedTuple):
    """First transitions of complete windows.

    Attributes:
        lanes: int64 [K].
        numbers: int64 [K], of the records in their lanes.
        lengths: int64 [K], transitions of the windows, from 1 to n.
    """

    lanes: Tensor
    numbers: Tensor
    lengths: Tensor

    def at(self, chosen: Tensor) -> Anchors:
        """Return those at these positions."""
        return Anchors(*(part[chosen] for part in self))


class NoDumps:
    """Refuses TorchRL's whole-buffer dumps, which would write the full capacity at every checkpoint."""

    def dumps(self, path: Any) -> NoReturn:
        """Not supported; see :meth:`plasticity_rl.replay.buffer.FrameReplay.flush`."""
        raise NotImplementedError("FrameReplay persists with flush() and state_dict(), not with dumps() and loads().")

    def loads(self, path: Any) -> NoReturn:
        """Not supported; see :meth:`plasticity_rl.replay.buffer.FrameReplay.load_state_dict`."""
        self.dumps(path)


class WindowSampler(NoDumps, Sampler):
    """Draws complete n-step windows, uniformly over all of them and over all lanes, or :meth:`sample` by their age.

    An anchor (the first transition of a window) is complete when its n transitions, the record after them and the
    frames of its stack are live and in one episode; the open episode counts. Where fewer than n transitions are left,
    a window that meets a discount of 0 among them (a true termination, a lost life) is complete too, and ends there:
    nothing that comes later is in its return. Anchors are drawn among all live records and incomplete ones are
    rejected: for 500-step episodes that end by a time limit, and n = 3, that is less than 1 %.

    Args:
        frame_stack: Frames per observation, at least 1.
        n_step: Transitions per window, at least 1.
    """

    def __init__(self, frame_stack: int, n_step: int) -> None:
        self.frame_stack = frame_stack
        self.n_step = n_step
        self._past = torch.arange(1 - frame_stack, 1)
        self._ahead = torch.arange(n_step)
        self._known: tuple[int, int] | None = None  # lane and first record of a window that was complete
        self.by_age: AgeWeights | None = None
        """Weights by which :meth:`sample` draws; None: uniformly. Other draws are always uniform."""

    def set_n_step(self, n_step: int) -> None:
        """Draw windows of another length from now on."""
        self.n_step, self._ahead, self._known = n_step, torch.arange(n_step), None

    def sample(self, storage: FrameStorage, batch_size: int) -> tuple[FrameWindows, dict[str, Any]]:
        """Draw ``batch_size`` windows with the buffer's generator."""
        self.require_windows(storage)
        anchors = self._draw_anchors(storage, batch_size, self._rng, storage.written, self.by_age)
        return self._windows(storage, anchors), {}

    def draw(
        self,
        storage: FrameStorage,
        batch_size: int,
        generator: torch.Generator | None,
        ends: Tensor | None = None,
    ) -> FrameWindows:
        """Draw ``batch_size`` windows, with replacement.

        Args:
            storage: Where the records are.
            batch_size: B, at least 1.
            generator: Source of all random numbers.
            ends: int64 [num_lanes], for windows of the records before these numbers only; at least one of which must
                be complete.

        Raises:
            RuntimeError: If there is no complete window yet.
        """
        if ends is None:
            self.require_windows(storage)
            ends = storage.written
        return self._windows(storage, self._draw_anchors(storage, batch_size, generator, ends))

    def draw_distinct(
        self, storage: FrameStorage, most: int, generator: torch.Generator | None, part: int
    ) -> Iterator[FrameWindows]:
        """Draw up to ``most`` different windows, and yield them in parts: fewer where there are fewer. Linear in both.

        Args:
            storage: Where the records are.
            most: Number of windows, at least 1.
            generator: Source of all random numbers.
            part: Windows to yield at a time.
        """
        anchors = self.complete_anchors(storage)
        for chosen in torch.randperm(len(anchors.lanes), generator=generator)[:most].split(part):
            yield self._windows(storage, anchors.at(chosen))

    def require_windows(self, storage: FrameStorage) -> None:
        """Raise RuntimeError if there is no complete window yet."""
        if not self.can_sample(storage, 1):
            raise RuntimeError(
                f"The replay has no complete {self.n_step}-step window yet ({len(storage)} records): collect at least "
                f"{self.n_step + 1} steps of an episode before sampling (see FrameReplay.has_window)."
            )

    def can_sample(self, storage: FrameStorage, batch_size: int) -> bool:
        """Return whether there is at least one complete window. Constant time as long as the last found one lives."""
        if self._known is not None and self._known[1] >= int(storage.oldest[self._known[0]]):
            return True
        self._known = None
        if len(storage) > 1:
            lanes, numbers, _ = self.complete_anchors(storage)
            if len(lanes):  # remember the newest window of the last lane: it lives longest
                step = storage.step[storage.slot(lanes[-1], numbers[-1])]
                self._known = (int(lanes[-1]), int(numbers[-1] - step.clamp(max=self.frame_stack - 1)))
        return self._known is not None

    def complete_anchors(
        self, storage: FrameStorage, ends: Tensor | None = None, first: Tensor | None = None
    ) -> Anchors:
        """Return every complete anchor, of the records before ``ends``, from the live records ``first`` on; linear."""
        if not len(storage):
            return Anchors(*(torch.empty(0, dtype=torch.int64) for _ in range(3)))
        ends = storage.written if ends is None else ends
        ranges = zip((storage.oldest if first is None else first).tolist(), ends.tolist(), strict=True)
        numbers = [torch.arange(oldest, written) for oldest, written in ranges]
        lanes = torch.arange(len(numbers)).repeat_interleave(torch.tensor([len(part) for part in numbers]))
        joined = torch.cat(numbers)
        anchors = Anchors(lanes, joined, self._lengths(storage, lanes, joined, ends))
        return anchors.at(anchors.lengths > 0)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the generator."""
        return {} if self._rng is None else {"generator": self._rng.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._known = None
        if self._rng is not None:
            self._rng.set_state(state_dict["generator"])

    def follow(self) -> None:
        """Take note of records that were written together."""
        self._known = None

    def _empty(self) -> None:
        self._known = None

    def _draw_anchors(
        self,
        storage: FrameStorage,
        batch_size: int,
        generator: torch.Generator | None,
        written: Tensor,
        by_age: AgeWeights | None = None,
    ) -> Anchors:
        live = written - storage.oldest
        ends = live.cumsum(0)
        shift = written - ends  # from the position among all live records to the number in the lane
        kept: list[Anchors] = []
        missing = batch_size
        for _ in range(_REJECTION_ROUNDS):
            count = missing + missing // 8 + 8
            if by_age is None:
                draws = torch.randint(int(ends[-1]), (count,), generator=generator)
                lanes = torch.searchsorted(ends, draws, right=True)
                numbers = draws + shift[lanes]
            else:
                lanes, ages = by_age.draw(live, count, generator)
                numbers = written[lanes] - ages
            anchors = Anchors(lanes, numbers, self._lengths(storage, lanes, numbers, written))
            complete = anchors.lengths.nonzero().squeeze(1)[:missing]
            kept.append(anchors.at(complete))
            missing -= len(complete)
            if not missing:
                break
        else:  # almost nothing is complete (a nearly empty buffer, very short episodes): list what is and choose
            anchors = self.complete_anchors(storage, written)
            kept.append(anchors.at(_choose(anchors, missing, generator, written, by_age)))
        return kept[0] if len(kept) == 1 else Anchors(*(torch.cat(parts) for parts in zip(*kept, strict=True)))

    def _lengths(self, storage: FrameStorage, lanes: Tensor, numbers: Tensor, written: Tensor) -> Tensor:
        """Return int64 [K], the transitions of the window anchored at each of these live records; 0: not complete."""
        step = storage.step
        first_step = step[storage.slot(lanes, numbers)]
        has_stack = numbers - first_step.clamp(max=self.frame_stack - 1) >= storage.oldest[lanes]

        def reaches(ahead: int, lanes: Tensor, numbers: Tensor, first_step: Tensor) -> Tensor:
            # Records are consecutive in a lane, so positions that differ by `ahead` can only belong to the same
            # episode. Where the later record is not live its slot holds something else, and the first part is false.
            last = numbers + ahead
            return (last < written[lanes]) & (step[storage.slot(lanes, last)] == first_step + ahead)

        lengths = self.n_step * (has_stack & reaches(self.n_step, lanes, numbers, first_step))
        short = (has_stack & (lengths == 0)).nonzero().squeeze(1)  # few: the ends of episodes
        for ahead in range(1, self.n_step) if len(short) else ():
            at = lanes[short], numbers[short]
            ends = storage.discount[storage.slot(at[0], at[1] + ahead - 1)] == 0
            ends &= reaches(ahead, *at, first_step[short])
            lengths[short[ends]] = ahead
            short = short[~ends]
        return lengths

    def _windows(self, storage: FrameStorage, anchors: Anchors) -> FrameWindows:
        resets = anchors.numbers - storage.step[storage.slot(anchors.lanes, anchors.numbers)]
        return window_slots(storage, anchors, resets, self._past, self._ahead)


def window_slots(storage: FrameStorage, anchors: Anchors, resets: Tensor, past: Tensor, ahead: Tensor) -> FrameWindows:
    """Return the slots of the records of windows, all tensors on one device.

    Args:
        storage: Where the records are.
        anchors: K windows.
        resets: int64 [K], numbers of the first records of their episodes.
        past: int64 [N], the frames of a stack, counted from its last.
        ahead: int64 [n], the transitions, counted from the first.
    """
    lanes, numbers, lengths, reset = (part[:, None] for part in (*anchors, resets))
    frames = torch.maximum(numbers + past, reset)  # stacks repeat the reset frame, as the env does
    next_frames = torch.maximum(numbers + lengths + past, reset)
    steps = numbers + torch.minimum(ahead, lengths - 1)  # the last again counts nothing: its discount is 0
    return FrameWindows(storage.slot(lanes, frames), storage.slot(lanes, next_frames), storage.slot(lanes, steps))


def _choose(
    anchors: Anchors, count: int, generator: torch.Generator | None, written: Tensor, by_age: AgeWeights | None
) -> Tensor:
    """Return positions of ``count`` of the anchors, with replacement."""
    if by_age is None:
        return torch.randint(len(anchors.lanes), (count,), generator=generator)
    weights = by_age.of(written[anchors.lanes] - anchors.numbers)
    return torch.multinomial(weights, count, replacement=True, generator=generator)
