"""Sampler of complete n-step windows over all lanes of a :class:`~plasticity_rl.replay.storage.FrameStorage`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

import torch
from torch import Tensor
from torchrl.data.replay_buffers.samplers import Sampler

from plasticity_rl.replay.storage import FrameStorage, FrameWindows

_REJECTION_ROUNDS = 8


class NoDumps:
    """Refuses TorchRL's whole-buffer dumps, which would write the full capacity at every checkpoint."""

    def dumps(self, path: Any) -> NoReturn:
        """Not supported; see :meth:`plasticity_rl.replay.buffer.FrameReplay.flush`."""
        raise NotImplementedError("FrameReplay persists with flush() and state_dict(), not with dumps() and loads().")

    def loads(self, path: Any) -> NoReturn:
        """Not supported; see :meth:`plasticity_rl.replay.buffer.FrameReplay.load_state_dict`."""
        self.dumps(path)


class WindowSampler(NoDumps, Sampler):
    """Draws complete n-step windows, uniformly over all of them and over all lanes.

    An anchor (the first transition of a window) is complete when its n transitions, the record after them and the
    frames of its stack are live and in one episode; the open episode counts. Anchors are drawn among all live records
    and incomplete ones are rejected: for 500-step episodes and n = 3 that is less than 1 %.

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

    def sample(self, storage: FrameStorage, batch_size: int) -> tuple[FrameWindows, dict[str, Any]]:
        """Draw ``batch_size`` windows with the buffer's generator."""
        return self.draw(storage, batch_size, self._rng), {}

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
        if ends is None and not self.can_sample(storage, batch_size):
            raise RuntimeError(
                f"The replay has no complete {self.n_step}-step window yet ({len(storage)} records): collect at least "
                f"{self.n_step + 1} steps of an episode before sampling (see FrameReplay.has_window)."
            )
        lanes, numbers = self._draw_anchors(storage, batch_size, generator, storage.written if ends is None else ends)
        return self._windows(storage, lanes, numbers)

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
        lanes, numbers = self.complete_anchors(storage)
        for chosen in torch.randperm(len(lanes), generator=generator)[:most].split(part):
            yield self._windows(storage, lanes[chosen], numbers[chosen])

    def can_sample(self, storage: FrameStorage, batch_size: int) -> bool:
        """Return whether there is at least one complete window. Constant time as long as the last found one lives."""
        if self._known is not None and self._known[1] >= int(storage.oldest[self._known[0]]):
            return True
        self._known = None
        if len(storage) > self.n_step:
            lanes, numbers = self.complete_anchors(storage)
            if len(lanes):  # remember the newest window of the last lane: it lives longest
                step = storage.step[storage.slot(lanes[-1], numbers[-1])]
                self._known = (int(lanes[-1]), int(numbers[-1] - step.clamp(max=self.frame_stack - 1)))
        return self._known is not None

    def complete_anchors(self, storage: FrameStorage, ends: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return lane and number (int64 [K] each) of every complete anchor, of the records before ``ends``; linear."""
        if not len(storage):
            return torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
        ends = storage.written if ends is None else ends
        ranges = zip(storage.oldest.tolist(), ends.tolist(), strict=True)
        numbers = [torch.arange(oldest, written) for oldest, written in ranges]
        lanes = torch.arange(len(numbers)).repeat_interleave(torch.tensor([len(part) for part in numbers]))
        joined = torch.cat(numbers)
        complete = self._is_complete(storage, lanes, joined, ends)
        return lanes[complete], joined[complete]

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the generator."""
        return {} if self._rng is None else {"generator": self._rng.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._known = None
        if self._rng is not None:
            self._rng.set_state(state_dict["generator"])

    def _empty(self) -> None:
        self._known = None

    def _draw_anchors(
        self, storage: FrameStorage, batch_size: int, generator: torch.Generator | None, written: Tensor
    ) -> tuple[Tensor, Tensor]:
        ends = (written - storage.oldest).cumsum(0)
        shift = written - ends  # from the position among all live records to the number in the lane
        kept: list[tuple[Tensor, Tensor]] = []
        missing = batch_size
        for _ in range(_REJECTION_ROUNDS):
            draws = torch.randint(int(ends[-1]), (missing + missing // 8 + 8,), generator=generator)
            lanes = torch.searchsorted(ends, draws, right=True)
            numbers = draws + shift[lanes]
            complete = self._is_complete(storage, lanes, numbers, written).nonzero().squeeze(1)[:missing]
            kept.append((lanes[complete], numbers[complete]))
            missing -= len(complete)
            if not missing:
                break
        else:  # almost nothing is complete (a nearly empty buffer, very short episodes): list what is and choose
            all_lanes, all_numbers = self.complete_anchors(storage, written)
            chosen = torch.randint(len(all_lanes), (missing,), generator=generator)
            kept.append((all_lanes[chosen], all_numbers[chosen]))
        return torch.cat([lanes for lanes, _ in kept]), torch.cat([numbers for _, numbers in kept])

    def _is_complete(self, storage: FrameStorage, lanes: Tensor, numbers: Tensor, written: Tensor) -> Tensor:
        """Return bool [K]: do the windows anchored at these live records consist of live records of one episode?"""
        step = storage.step
        first_step = step[storage.slot(lanes, numbers)]
        last = numbers + self.n_step
        live = (last < written[lanes]) & (numbers - first_step.clamp(max=self.frame_stack - 1) >= storage.oldest[lanes])
        # Records are consecutive in a lane, so positions that differ by n can only belong to the same episode. Where
        # `last` is not live the slot holds something else, and `live` is false already.
        return live & (step[storage.slot(lanes, last)] == first_step + self.n_step)

    def _windows(self, storage: FrameStorage, lanes: Tensor, numbers: Tensor) -> FrameWindows:
        lanes, numbers = lanes[:, None], numbers[:, None]
        reset = numbers - storage.step[storage.slot(lanes, numbers)]  # stacks repeat the reset frame, as the env does
        frames = torch.maximum(numbers + self._past, reset)
        next_frames = torch.maximum(numbers + self.n_step + self._past, reset)
        return FrameWindows(
            storage.slot(lanes, frames), storage.slot(lanes, next_frames), storage.slot(lanes, numbers + self._ahead)
        )
