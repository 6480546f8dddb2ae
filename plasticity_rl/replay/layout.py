"""What a record of the replay is made of, and how many bytes all of them take."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from plasticity_rl.errors import UserError, at_least, one_of
from plasticity_rl.machine.capacity import show_bytes

OBSERVATION_DTYPES = {"pixels": torch.uint8, "state": torch.float32}
"""What observations are stored as, by key: their key in batches is the name of their column."""
Storage = Literal["ram", "memmap", "device"]
STORAGES = get_args(Storage)
"""Where records can lie while a run goes on."""
_ADDED_LATER = {"num_actions": 0}
"""What the description of a layout did not say at first, and what it was then."""


@dataclass(frozen=True)
class RecordLayout:
    """Shape and size of the stored records; two replays can share files exactly when their layouts are equal.

    Attributes:
        frame_shape: Shape of a single observation: (channels, height, width) of an image, (n,) of a state.
        action_dim: Number of action dimensions.
        num_lanes: Number of environments; each has its own ring of contiguous slots, its lane.
        lane_length: Records of a lane that can be sampled: always its newest ones.
        slack: Slots per lane beyond ``lane_length``, so that this many records can be written after a checkpoint
            without overwriting one that the checkpoint needs.
        observation: ``pixels`` or ``state``.
        num_actions: Number of discrete actions, of which one is stored as its index; 0: continuous ones.
    """

    frame_shape: tuple[int, ...]
    action_dim: int
    num_lanes: int
    lane_length: int
    slack: int
    observation: str = "pixels"
    num_actions: int = 0

    @property
    def dtype(self) -> torch.dtype:
        """What a stored observation is made of."""
        return OBSERVATION_DTYPES[self.observation]

    @property
    def action_dtype(self) -> torch.dtype:
        """What a stored action is made of."""
        return torch.int64 if self.num_actions else torch.float32

    @property
    def lane_slots(self) -> int:
        """Physical slots per lane."""
        return self.lane_length + self.slack

    @property
    def slots(self) -> int:
        """Physical slots over all lanes."""
        return self.num_lanes * self.lane_slots

    def columns(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Return the shape of one record and the dtype of every column."""
        return {
            self.observation: (self.frame_shape, self.dtype),
            "action": ((self.action_dim,), self.action_dtype),
            "reward": ((), torch.float32),
            "discount": ((), torch.float32),
            "step": ((), torch.int64),
            "terminal": ((), torch.bool),
        }

    def size_bytes(self) -> int:
        """Return the bytes of all slots of all columns."""
        return self.slots * sum(math.prod(shape) * dtype.itemsize for shape, dtype in self.columns().values())

    def allocate(self, device: torch.device | None = None) -> dict[str, Tensor]:
        """Return uninitialised records in memory; the operating system provides the pages as they are written.

        Args:
            device: Where the columns of which batches are made lie (``READ``), all of whose memory is taken at once;
                None: in memory as well.

        Raises:
            UserError: When the system does not even reserve that much address space, or the device has less memory.
        """
        try:
            return {
                name: torch.empty((self.slots, *shape), dtype=dtype, device=device if self.is_read(name) else None)
                for name, (shape, dtype) in self.columns().items()
            }
        except RuntimeError as error:
            where, other = f"memory of {device}" if device else "memory", "ram or memmap" if device else "memmap"
            raise UserError(
                f"The system refuses to reserve {show_bytes(self.size_bytes())} of {where} for the replay. Lower "
                "--data.capacity, --data.resumable_epochs or --data.eval_every_n_frames, or keep the replay elsewhere "
                f"with --data.storage {other}."
            ) from error

    def is_read(self, column: str) -> bool:
        """Return whether batches are made of a column, beside which window is taken."""
        return column in (self.observation, "action", "reward")

    def describe(self) -> dict[str, Any]:
        """Return the layout in the user's terms, as plain data for checkpoints and messages."""
        return {
            "frame shape": list(self.frame_shape),
            "action_dim": self.action_dim,
            "capacity": self.num_lanes * self.lane_length,
            "num_lanes": self.num_lanes,
            "slack": self.slack,
            "num_actions": self.num_actions,
        }

    def require_equal(self, other: dict[str, Any], where: str) -> None:
        """Refuse data of another layout.

        Args:
            other: What :meth:`describe` returned when the data was written.
            where: Where ``other`` was found, for the message.

        Raises:
            UserError: If a value differs; names both values.
        """
        mine, other = self.describe(), _ADDED_LATER | other
        wrong = [
            f"{name} is {mine[name]} now but {other.get(name)} there" for name in mine if mine[name] != other.get(name)
        ]
        if wrong:
            raise UserError(
                f"The replay cannot be resumed: {'; '.join(wrong)} ({where}). Resume with the settings of the original "
                "run, or start a new run with an empty replay folder."
            )


def storage_on(storage: Storage, device: torch.device) -> Storage:
    """Return where the records of a run on ``device`` lie: that of a CPU is memory."""
    return "ram" if storage == "device" and device.type == "cpu" else storage


def replay_bytes(
    obs_shape: tuple[int, ...],
    frame_stack: int,
    action_dim: int,
    capacity: int,
    num_lanes: int = 1,
    slack: int = 0,
    observation: str = "pixels",
    num_actions: int = 0,
) -> int:
    """Return the bytes a full replay takes, in memory or on disk.

    Args:
        obs_shape: Shape of one observation: (channels x frame_stack, height, width), or (n x frame_stack,) of a state.
        frame_stack: Frames per observation; each frame is stored once.
        action_dim: Number of action dimensions.
        capacity: Records that can be sampled, over all lanes.
        num_lanes: Number of environments.
        slack: Extra records per lane.
        observation: ``pixels`` or ``state``.
        num_actions: Number of discrete actions, or 0.

    Returns:
        The number of bytes.
    """
    frame, lane_length = (obs_shape[0] // frame_stack, *obs_shape[1:]), -(-capacity // num_lanes)
    return RecordLayout(frame, action_dim, num_lanes, lane_length, slack, observation, num_actions).size_bytes()


def refuse_counts(from_1: Mapping[str, int], from_0: Mapping[str, int]) -> None:
    """Raise UserError for arguments, by their names, that are not whole numbers from 1, or from 0, on."""
    for least, counts in ((1, from_1), (0, from_0)):
        for name, value in counts.items():
            at_least(name, value, least)


def refuse_words(observation: str, storage: str, folder: str | os.PathLike[str] | None) -> None:
    """Raise UserError for a kind of observation or storage that there is not, and for files without a folder."""
    one_of("observation", observation, OBSERVATION_DTYPES)
    one_of("data.storage", storage, STORAGES)
    if storage == "memmap" and folder is None:
        raise UserError("--data.storage memmap needs a folder for its files.")


def refuse_sizes(
    obs_shape: tuple[int, ...], observation: str, frame_stack: int, n_step: int, num_lanes: int, capacity: int
) -> None:
    """Raise UserError for observations that are no stack, and a replay in which no window fits."""
    wanted = ("channels", "height", "width") if observation == "pixels" else ("numbers",)
    if len(obs_shape) != len(wanted) or obs_shape[0] % frame_stack:
        shape = ", ".join([f"{wanted[0]} x {frame_stack} stacked frames", *wanted[1:]])
        raise UserError(f"obs_shape of {observation} must be ({shape}), got {tuple(obs_shape)}.")
    refuse_small_capacity(capacity, num_lanes, frame_stack, n_step)


def refuse_small_capacity(
    capacity: int, num_lanes: int, frame_stack: int, n_step: int, what: str = "", ranks: int = 1
) -> None:
    """Raise UserError for a replay in which no window of so many steps is ever complete, so that nothing is learned.

    Args:
        capacity: Records of all ranks.
        num_lanes: Environments of a rank.
        frame_stack: Stacked frames.
        n_step: Steps of the return.
        what: Whose steps these are, in words; nothing for those of ``data.n_step``.
        ranks: Number of processes that share the capacity.
    """
    least = num_lanes * ranks * (frame_stack + n_step)
    if capacity < least:
        raise UserError(
            f"data.capacity={capacity} must be at least {least}: {num_lanes * ranks} environments x "
            f"({frame_stack} stacked frames + {n_step} steps{what})"
        )
