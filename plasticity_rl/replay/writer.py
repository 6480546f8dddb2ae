"""Writer of a :class:`~plasticity_rl.replay.storage.FrameStorage`: one ring per environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data.replay_buffers.writers import Writer

from plasticity_rl.replay.sampler import NoDumps
from plasticity_rl.replay.storage import FrameStorage


class LaneWriter(NoDumps, Writer):
    """Appends records to the ring of their lane and numbers them within their episode.

    Args:
        num_lanes: Number of environments.
    """

    _storage: FrameStorage

    def __init__(self, num_lanes: int) -> None:
        super().__init__()
        self.position = torch.zeros(num_lanes, dtype=torch.int64)
        """int64 [num_lanes], position in the episode of the next record; 0 when an episode is about to start."""

    def extend(self, data: TensorDictBase | Mapping[str, Tensor]) -> Tensor:
        """Append one record to each lane in ``data["lane"]`` (int64 [M], no lane twice); return their slots [M]."""
        lanes = data["lane"]
        slots, position = self._storage.reserve(lanes), self.position[lanes]
        self._storage.set(slots, {**dict(data.items()), "step": position})
        self.position[lanes] = torch.where(data["terminal"], 0, position + 1)
        return slots

    def add(self, data: TensorDictBase) -> int:
        """Append a single record; see :meth:`extend`."""
        return int(self.extend(data.unsqueeze(0)))

    def state_dict(self) -> dict[str, Any]:
        """Return the positions in the open episodes."""
        return {"position": self.position.clone()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.position = state_dict["position"].clone()

    def _empty(self, empty_write_count: bool = True) -> None:
        """Keep the positions: the open episodes go on after the buffer is emptied."""
