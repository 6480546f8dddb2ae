"""Read the replay of a finished or stopped run, episode by episode, without changing its files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase

from plasticity_rl.checkpoint_files import read_checkpoint
from plasticity_rl.errors import UserError
from plasticity_rl.files.places import expanded, run_folder_of
from plasticity_rl.replay.files import RecordFiles
from plasticity_rl.replay.layout import RecordLayout


@dataclass(frozen=True)
class DonorReplay:
    """The replay that a checkpoint refers to.

    Attributes:
        identity: Task and environment settings of its run.
        layout: Shape and size of its records.
        folder: Folder with its files (of rank 0).
        cursors: What the checkpoint says about the files: run, session, records written per lane.
    """

    identity: dict[str, Any]
    layout: RecordLayout
    folder: Path
    cursors: dict[str, Any]

    def episodes(self) -> Iterator[TensorDictBase]:
        """Yield the records [T] of every episode that is whole or open, oldest first within each environment.

        An episode whose beginning the ring has overwritten is left out. An open one is cut: its last record keeps its
        frame only, as the last frame of an episode does.

        Raises:
            UserError: When the files no longer hold what the checkpoint needs.
        """
        files = RecordFiles(self.folder, self.layout)
        written = self.cursors["written"]
        oldest = torch.maximum(self.cursors["start"], written - self.layout.lane_length)
        records = files.open(self.cursors["run"], self.cursors["session"], written, oldest)
        if records is None:
            return
        for lane in range(self.layout.num_lanes):
            first, end = int(oldest[lane]), int(written[lane])
            slots = lane * self.layout.lane_slots + torch.arange(first, end) % self.layout.lane_slots
            starts = (records["step"][slots] == 0).nonzero().squeeze(1).tolist()
            for start, stop in zip(starts, [*starts[1:], len(slots)], strict=True):
                episode = records[slots[start:stop]].clone()
                if not episode["terminal"][-1]:
                    for name in ("action", "reward", "discount"):
                        episode[name][-1] = 0
                    episode["terminal"][-1] = True
                yield episode


def donor_replay(path: str | Path) -> DonorReplay:
    """Find the replay of a run.

    Args:
        path: Run folder, whose ``checkpoints/last.ckpt`` is used, or a checkpoint in the ``checkpoints/`` of one.

    Raises:
        UserError: When there is no checkpoint or no replay, or the checkpoint is damaged.
    """
    path = expanded(Path(path), "path")
    checkpoint_path = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    if not checkpoint_path.is_file():
        raise UserError(f"{path} is no run: there is no file {checkpoint_path}; name a run folder or a checkpoint")
    run_dir = run_folder_of(checkpoint_path)
    if run_dir is None:
        raise UserError(f"{checkpoint_path} lies in no run, so there is no replay beside it; name the run folder")
    folder = run_dir / "replay" / "rank0"
    if not folder.is_dir():
        raise UserError(f"the run of {checkpoint_path} has no replay in {folder}")
    state = read_checkpoint(checkpoint_path).get("RLDataModule")
    if not state:
        raise UserError(f"{checkpoint_path} holds no data module, so it cannot say what its replay contains")
    cursors = state["replay"]["storage"]
    described = cursors["layout"]
    lanes = described["num_lanes"]
    shape, length = tuple(described["frame shape"]), described["capacity"] // lanes
    observation = state["identity"].get("observation", "pixels")
    layout = RecordLayout(
        shape,
        described["action_dim"],
        lanes,
        length,
        described["slack"],
        observation,
        described.get("num_actions", 0),  # not in checkpoints from before there were discrete ones
    )
    return DonorReplay(state["identity"], layout, folder, cursors)
