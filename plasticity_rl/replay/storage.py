"""TorchRL storage of single frames in one ring per environment."""

from __future__ import annotations

import functools
import math
import secrets
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data.replay_buffers.storages import Storage

from plasticity_rl.errors import UserError
from plasticity_rl.replay.copies import sent
from plasticity_rl.replay.files import RecordFiles
from plasticity_rl.replay.layout import RecordLayout

_CLAIM_AHEAD = 100
"""Records of a lane whose disk space is taken at a time: 2 MB of frames of 84 x 84 pixels."""


class FrameWindows(NamedTuple):
    """Slots (int64) of the records that make up a batch of B n-step transitions, for N stacked frames.

    Attributes:
        frames: [B, N], the frames of the observation, oldest first.
        next_frames: [B, N], the frames of the observation n steps later.
        steps: [B, n], the n transitions between them.
        extras: What else the batch holds, by key: tensors [B, ...].
    """

    frames: Tensor
    next_frames: Tensor
    steps: Tensor
    extras: Mapping[str, Tensor] = MappingProxyType({})


class FrameStorage(Storage):
    """Records of single frames, in memory or memory-mapped, with exact resume from files.

    Each environment (lane) owns contiguous slots that it fills as a ring. Records are addressed by lane and *number*:
    how many records the lane had written before. The newest ``lane_length`` numbers of a lane are live.

    Why not ``LazyTensorStorage`` / ``LazyMemmapStorage``: they read with advanced indexing, about ten times slower than
    ``index_select`` into a reused buffer for image rows; they know one ring only; and they cannot re-open their files.

    Args:
        layout: Shape and size of the records.
        files: Where to persist them; None for memory only.
        in_ram: Keep the records in memory and copy new ones to ``files`` on :meth:`flush`; otherwise work in ``files``.
        buffered_batch: Batch size whose observations are read into two alternating reused buffers.
        kept_on: With ``in_ram``, the device on which observations, actions, rewards and discounts lie, and are put
            together to batches; None: in memory. What decides which windows there are is in memory either way.
    """

    def __init__(
        self,
        layout: RecordLayout,
        files: RecordFiles | None,
        *,
        in_ram: bool,
        buffered_batch: int,
        kept_on: torch.device | None = None,
    ) -> None:
        super().__init__(layout.slots)
        self.layout = layout
        self.files = files
        self.in_ram = in_ram
        self.buffered_batch, self.kept_on = buffered_batch, kept_on
        self.written = torch.zeros(layout.num_lanes, dtype=torch.int64)
        """int64 [num_lanes], records written so far per lane, overwritten ones included."""
        self._start = self.written.clone()  # numbers before this were dropped by empty()
        self._flushed = self.written.clone()  # ram: numbers before this are in the files
        self._run = secrets.token_hex(8)  # independent of every seeded generator
        self._session = 0
        self._claimed = self.written.clone()  # memory-mapped: numbers before this have their disk space
        self._fork: Tensor | None = None  # after a resume, until the first write: where that write will start
        # Reserved now, so that a replay the system cannot hold is refused before training; pages come when written.
        self._columns: dict[str, Tensor] = {}
        self._discounts: Tensor | None = None  # on the device: the discounts once more
        if in_ram:
            self._allocate()
        self._buffers: list[tuple[Tensor, Tensor]] = []

    @property
    def oldest(self) -> Tensor:
        """int64 [num_lanes], number of each lane's oldest live record."""
        return torch.maximum(self._start, self.written - self.layout.lane_length)

    @property
    def step(self) -> Tensor:
        """int64 [slots], position in its episode of the record in each slot (meaningless where never written)."""
        return self._columns["step"]

    @property
    def discount(self) -> Tensor:
        """float32 [slots], discount of the transition that leaves the record in each slot: 0 where the return ends."""
        return self._columns["discount"]

    @property
    def transitions(self) -> Tensor:
        """int64 [num_lanes], live records that are transitions, i.e. not the last frame of an episode."""
        found = self.written - self.oldest
        for span in self._spans(self.oldest, self.written):
            found[span.start // self.layout.lane_slots] -= self._columns["terminal"][span].count_nonzero()
        return found

    def shares(self, num_transitions: int) -> Tensor:
        """Return int64 [num_lanes], how many of so many transitions are of each lane: they take turns."""
        lanes = self.layout.num_lanes
        return (num_transitions + torch.arange(lanes - 1, -1, -1)) // lanes

    def ends_of_first(self, num_transitions: int) -> Tensor | None:
        """Return int64 [num_lanes], the numbers after the records that follow the first so many transitions.

        None while a lane has not had its share of them.

        Args:
            num_transitions: Over all lanes, see :meth:`shares`.

        Raises:
            UserError: If a lane has dropped its first.
        """
        ends = [self._end_of_first(lane, share) for lane, share in enumerate(self.shares(num_transitions).tolist())]
        return None if None in ends else torch.tensor(ends)

    def _end_of_first(self, lane: int, num_transitions: int) -> int | None:
        if int(self.oldest[lane]):
            raise UserError(
                f"the first {num_transitions} transitions of environment {lane} are no longer in the replay: raise "
                f"--data.capacity (now {self.layout.num_lanes * self.layout.lane_length})"
            )
        written = int(self.written[lane])
        first = lane * self.layout.lane_slots
        terminal = self._columns["terminal"][first : first + written] if written else torch.zeros(0, dtype=torch.bool)
        numbers = (~terminal).nonzero().squeeze(1)
        if len(numbers) < num_transitions:
            return None
        return min(int(numbers[num_transitions - 1]) + 2, written) if num_transitions else 0

    def slot(self, lane: Tensor, number: Tensor) -> Tensor:
        """Return the slot of each record, given int64 tensors of broadcastable shapes."""
        return lane * self.layout.lane_slots + number % self.layout.lane_slots

    def records_in(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Return lane and number, int64 [K], of the newest record that has been in each slot (int64 [K])."""
        size = self.layout.lane_slots
        lanes = slots // size
        newest = self.written[lanes] - 1
        return lanes, newest - (newest - slots) % size  # a lane begins at a multiple of its size

    def reserve(self, lanes: Tensor) -> Tensor:
        """Advance the rings of ``lanes`` (int64 [M], each at most once) and return the slots [M] to be filled."""
        self._prepare_writing()
        slots = self.slot(lanes, self.written[lanes])
        self._advance(lanes, 1)
        return slots

    def _advance(self, lanes: Tensor, num_records: int) -> None:
        """Count records that are about to be stored, once the files have room for them."""
        if self.in_ram:
            self.written[lanes] += num_records
            return
        written = self.written.clone()
        written[lanes] += num_records
        files = self._require_files()
        if bool((written > self._claimed).any()):
            end = written + _CLAIM_AHEAD
            first = torch.maximum(self._claimed, end - self.layout.lane_slots)
            files.claim_disk(list(self._spans(first, end)))
            self._claimed = end
        files.raise_high_water(written)
        self.written.copy_(written)

    def append(self, lane: int, records: TensorDictBase) -> None:
        """Store ``records`` ([T], at most a whole ring) behind the newest of a lane."""
        self._prepare_writing()
        first = int(self.written[lane])
        self._advance(torch.tensor([lane]), len(records))
        self.set(self.slot(torch.tensor(lane), torch.arange(first, first + len(records))), records)

    def set(self, cursor: Any, data: TensorDictBase | Mapping[str, Tensor], *, set_cursor: bool = True) -> None:
        """Store records ``data`` ([M]) in the slots ``cursor`` (int64 [M], from :meth:`reserve`)."""
        columns = list(self._columns.items())
        if self._discounts is not None:
            columns.append(("discount", self._discounts))
        slots = {device: sent(cursor, device) for device in {column.device for _, column in columns}}
        for name, column in columns:
            column.index_copy_(0, slots[column.device], sent(data[name].to(column.dtype), column.device))

    def get(self, index: Any) -> TensorDict:
        """Return windows, for :class:`FrameWindows`, or the raw records in these slots, for any other index."""
        if isinstance(index, FrameWindows):
            return self.read(index, reuse=len(index.steps) == self.buffered_batch)
        records = {name: column[index].cpu() for name, column in self._columns.items()}
        return TensorDict(records, batch_size=records["step"].shape)

    def read(self, windows: FrameWindows, *, reuse: bool) -> TensorDict:
        """Gather a batch of windows.

        Args:
            windows: Which slots to read.
            reuse: Read the observations into a buffer that is written again by the second next call with ``reuse``.
                Fresh tensors of this size would cost more in page faults than the reading itself.

        Returns:
            Observation and next observation [B, N*channels, ...] under their key, e.g. ``pixels``, ``action`` float32
            (int64: an index) [B, action_dim] of the first transition, ``reward`` and ``discount`` float32 [B, n] of all
            of them, and the extras of the windows; on ``kept_on``, if there is one.
        """
        if not self.in_ram:
            self._require_files().mapped.require_untouched()
        rows = windows.frames.numel()
        buffers = self.take_buffers(rows) if reuse else self._new_buffers(rows, pin=False)
        return self.gather(self._on_device(windows), buffers)

    def gather(self, windows: FrameWindows, buffers: tuple[Tensor, Tensor]) -> TensorDict:
        """Return the batch of :meth:`read`, of windows whose slots are where the records are, in these buffers."""
        batch, n_step = windows.steps.shape
        out, next_out = buffers
        steps = windows.steps.reshape(-1)
        columns, key = self._columns, self.layout.observation
        discounts = columns["discount"] if self._discounts is None else self._discounts
        return TensorDict(
            {
                key: self._stack(windows.frames, out),
                "action": columns["action"].index_select(0, windows.steps[:, 0]),
                "reward": columns["reward"].index_select(0, steps).view(batch, n_step),
                "discount": discounts.index_select(0, steps).view(batch, n_step),
                "next": TensorDict({key: self._stack(windows.next_frames, next_out)}, batch_size=[batch]),
                **windows.extras,
            },
            batch_size=[batch],
            device=self.kept_on,
        )

    def flush(self) -> int:
        """Bring everything written so far to the disk; without files do nothing.

        Returns:
            The number of records written since the last flush (in memory mode: copied to the files).
        """
        if self.files is None or torch.equal(self.written, self._flushed):
            return 0
        try:
            return self._flush(self.files)
        except OSError as error:
            raise self.files.unwritable(error) from error

    def _flush(self, files: RecordFiles) -> int:
        files.mapped.require_untouched()
        first = torch.maximum(self._flushed, self.written - self.layout.lane_slots)
        if self.in_ram:
            disk = self._claim_files()
            spans = list(self._spans(first, self.written))
            files.claim_disk(spans)
            files.raise_high_water(self.written)
            for span in spans:
                for name, column in self._columns.items():
                    disk[name][span].copy_(column[span])
        files.sync()
        self._flushed = self.written.clone()
        return int((self.written - first).sum())

    def state_dict(self) -> dict[str, Any]:
        """Return the cursors and the identity of the files, after flushing what is not on disk yet."""
        self.flush()
        return {
            "layout": self.layout.describe(),
            "run": self._run,
            "session": self._session,
            "written": self.written.clone(),
            "start": self._start.clone(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Open the files again and go back to the checkpoint.

        Raises:
            UserError: If there is no folder, or it does not hold what the checkpoint needs.
        """
        if self.files is None:
            raise UserError(
                "The replay was kept in memory only (no folder), so this checkpoint cannot be resumed with its replay. "
                "Give the replay a folder before starting a run that is to be resumed."
            )
        self.layout.require_equal(state_dict["layout"], "checkpoint")
        written, start = state_dict["written"].clone(), state_dict["start"].clone()
        oldest = torch.maximum(start, written - self.layout.lane_length)
        records = self.files.open(state_dict["run"], state_dict["session"], written, oldest)
        self.written, self._start, self._flushed, self._claimed = written, start, written.clone(), written.clone()
        self._run, self._session = state_dict["run"], state_dict["session"]
        self._columns, self._fork = {}, None
        if records is None:
            return
        self._fork = written.clone()
        disk = self._columns = _plain(records)
        if self.in_ram:
            self._allocate()
            for span in self._spans(self.oldest, written):
                for name, column in self._columns.items():
                    column[span].copy_(disk[name][span])
                if self._discounts is not None:
                    self._discounts[span].copy_(disk["discount"][span])

    def contains(self, item: Any) -> bool:
        """Return whether slot ``item`` holds a live record."""
        return any(span.start <= int(item) < span.stop for span in self._spans(self.oldest, self.written))

    def __len__(self) -> int:
        """Return the number of live records over all lanes."""
        return int((self.written - self.oldest).sum())

    def __repr__(self) -> str:
        """Return the layout and the number of live records, without reading any."""
        return f"{type(self).__name__}({self.layout}, in_ram={self.in_ram}, live={len(self)})"

    def _empty(self) -> None:
        self._start = self.written.clone()

    def _prepare_writing(self) -> None:
        if not self.in_ram:
            self._require_files().mapped.require_untouched()
            disk = self._claim_files()
            self._columns = self._columns or disk
        elif not self._columns:
            self._allocate()

    def _allocate(self) -> None:
        self._columns = self.layout.allocate(self.kept_on)
        if self.kept_on is not None:
            self._discounts = torch.empty_like(self._columns["discount"], device=self.kept_on)

    def _claim_files(self) -> dict[str, Tensor]:
        """Create the files, or take over those of the resumed run, before the first change; return their columns."""
        files = self._require_files()
        if files.records is None:
            files.create(self._run)
        elif self._fork is not None:
            files.fork(self._fork)
        elif not self.in_ram:
            return self._columns  # every later write: skip building the dictionary
        self._fork, self._session = None, files.session
        assert files.records is not None
        return _plain(files.records)

    def _require_files(self) -> RecordFiles:
        assert self.files is not None, "memory-mapped storage without files"
        return self.files

    def _spans(self, first: Tensor, end: Tensor) -> Iterator[slice]:
        """Yield the slots of the numbers ``first <= number < end`` of every lane, as slices."""
        size = self.layout.lane_slots
        for lane, (low, high) in enumerate(zip(first.tolist(), end.tolist(), strict=True)):
            base, begin, count = lane * size, low % size, high - low
            head = min(count, size - begin)
            if head:
                yield slice(base + begin, base + begin + head)
            if count > head:
                yield slice(base, base + count - head)

    def _on_device(self, windows: FrameWindows) -> FrameWindows:
        """Return windows whose slots are where the records are, in one copy."""
        if self.kept_on is None or windows.steps.device.type == self.kept_on.type:
            return windows
        parts = (windows.frames, windows.next_frames, windows.steps)
        joined = sent(torch.cat([part.reshape(-1) for part in parts]), self.kept_on)
        there = joined.split([part.numel() for part in parts])
        frames, next_frames, steps = (t.view(part.shape) for t, part in zip(there, parts, strict=True))
        return FrameWindows(frames, next_frames, steps, windows.extras)

    def _stack(self, slots: Tensor, out: Tensor) -> Tensor:
        """Read the frames in ``slots`` [B, N] into ``out`` and return them as [B, N*channels, ...]."""
        channels, *rest = self.layout.frame_shape
        frames = self._columns[self.layout.observation].view(self.layout.slots, -1)
        torch.index_select(frames, 0, slots.reshape(-1), out=out)
        return out.view(len(slots), slots.shape[1] * channels, *rest)

    def take_buffers(self, rows: int) -> tuple[Tensor, Tensor]:
        """Return the two buffers, of as many frames, that the second next call returns again."""
        if not self._buffers:
            # Two pairs, so that a batch survives one further sample(); FrameReplay waits for copies to a GPU.
            pin = self.kept_on is None and torch.cuda.is_available()
            self._buffers = [self._new_buffers(rows, pin=pin) for _ in range(2)]
        self._buffers.reverse()
        return self._buffers[0]

    def _new_buffers(self, rows: int, *, pin: bool) -> tuple[Tensor, Tensor]:
        make = functools.partial(torch.empty, rows, math.prod(self.layout.frame_shape), dtype=self.layout.dtype)
        new = [make(pin_memory=pin) if self.kept_on is None else make(device=self.kept_on) for _ in range(2)]
        return new[0], new[1]


def _plain(records: TensorDictBase) -> dict[str, Tensor]:
    """Return the columns as plain tensors: the memory-mapped subclass pays a dispatch on every operation."""
    return {str(name): column.as_subclass(Tensor) for name, column in records.items()}
