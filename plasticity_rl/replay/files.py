"""The replay on disk: memory-mapped files, and the bookkeeping that makes resuming safe.

A replay folder holds

* ``records/``: one memory-mapped file per column, in tensordict's own format (``TensorDict.load_memmap`` reads it);
* ``high_water.bin``: per lane, the highest number of records any run ever stored here;
* ``replay.json``: the layout, the run the data belongs to, and where each resumed run started to write.

The last two answer the only question that matters when a checkpoint is resumed: are all the records it needs still
there, unchanged? If not, resuming is refused, never done approximately.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tensordict import MemoryMappedTensor, TensorDict, TensorDictBase
from torch import Tensor

from plasticity_rl.checkpoint_files import replace_durably
from plasticity_rl.errors import RunFailure, UserError
from plasticity_rl.files.writing import refuse_link, remove_link
from plasticity_rl.machine.failures import how_to_write
from plasticity_rl.replay.layout import RecordLayout
from plasticity_rl.replay.mapped import MappedFiles

_FORMAT = 1


class RecordFiles:
    """The files of one replay folder. Nothing is created, changed or deleted before :meth:`create` or :meth:`open`.

    Args:
        folder: The folder; made when needed.
        layout: What the files hold.
    """

    def __init__(self, folder: str | os.PathLike[str], layout: RecordLayout) -> None:
        self.folder = Path(folder)
        self.layout = layout
        self.records: TensorDictBase | None = None
        self._high_water = torch.zeros(0, dtype=torch.int64)
        self._forks: list[list[int]] = []
        self._run = ""
        self.mapped = MappedFiles(self.folder)

    @property
    def session(self) -> int:
        """Index of the latest run that wrote here: 0 for the original run, plus 1 for each resume that wrote."""
        return len(self._forks) - 1

    def create(self, run: str) -> TensorDictBase:
        """Create empty files for the new run ``run`` and return the mapped records.

        Raises:
            UserError: If the folder already holds a replay.
        """
        if self._info_path.exists():
            raise UserError(
                f"The replay folder {self.folder} already holds the replay of another run. Resume that run from its "
                "checkpoint, or delete the folder, or choose another one."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_leftovers()
        self._run, self._forks = run, [[0] * self.layout.num_lanes]
        # Expanding one record gives the shapes without memory; the files are sparse until written. Leftovers of a
        # creation cut short hold no data (replay.json is written last) and are gone.
        one = {name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in self.layout.columns().items()}
        blank = TensorDict(one, batch_size=[]).expand(self.layout.slots)
        self.records = blank.memmap_like(prefix=str(self._records_path), existsok=True)
        self._high_water_path.write_bytes(bytes(8 * self.layout.num_lanes))
        self._high_water = self._map_high_water()
        self.sync()
        self._write_info()
        self.mapped.note(self._sizes())
        return self.records

    def _remove_leftovers(self) -> None:
        """Remove files of a creation cut short, and links that would lead elsewhere what is written here."""
        remove_link(self._records_path)
        names = [f"{name}.memmap" for name in self.layout.columns()] + ["meta.json"]
        for path in (self._high_water_path, *(self._records_path / name for name in names)):
            path.unlink(missing_ok=True)

    def open(self, run: str, session: int, written: Tensor, oldest: Tensor) -> TensorDictBase | None:
        """Map the files again for a checkpoint of run ``run`` and return the records.

        Args:
            run: Identity of the run that the checkpoint belongs to.
            session: ``session`` of that run at the checkpoint.
            written: int64 [num_lanes], records written per lane at the checkpoint.
            oldest: int64 [num_lanes], number of each lane's oldest live record at the checkpoint.

        Returns:
            The records, or None when there are no files because the checkpoint was taken before the first write.

        Raises:
            UserError: If files are missing, belong to another run or layout, or no longer hold what the checkpoint
                needs.
        """
        if not self._info_path.exists():
            if not written.any():
                return None
            raise UserError(
                f"The checkpoint needs the replay data in {self.folder}, which is not there. Put the folder back, or "
                "go on with an empty replay (--data.allow_empty_replay true, not exact), or start a new run."
            )
        info = self._read_info()
        self.layout.require_equal(info["layout"], str(self.folder))
        if info["run"] != run:
            raise UserError(
                f"The replay in {self.folder} belongs to run {info['run']}, the checkpoint to run {run}. Use the "
                "checkpoint and the replay folder of the same run."
            )
        self._require_whole_files()
        self._run, self._forks, self._high_water = run, info["forks"], self._map_high_water()
        self._require_intact(session, written, oldest)
        self._require_description()
        self.records = self._map_records()
        self.mapped.note(self._sizes())
        return self.records

    def _require_description(self) -> None:
        """Refuse columns that the description in the folder does not have: something else was written there."""
        try:
            described = json.loads((self._records_path / "meta.json").read_text(encoding="utf-8"))
            for name in self.layout.columns():
                described[name]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise self._damaged(f"records/meta.json gives {type(error).__name__}") from error

    def _map_records(self) -> TensorDict:
        """Map the columns of the layout. Tensordict would unpickle what a folder of somebody else calls a column."""
        columns = {
            name: MemoryMappedTensor.from_filename(
                self._records_path / f"{name}.memmap", dtype=dtype, shape=torch.Size([self.layout.slots, *shape])
            )
            for name, (shape, dtype) in self.layout.columns().items()
        }
        return TensorDict(columns, batch_size=[self.layout.slots], lock=True)

    def fork(self, written: Tensor) -> None:
        """Note durably that a resumed run is about to write from ``written`` (int64 [num_lanes]) onwards."""
        self._forks.append(written.tolist())
        self._write_info()

    def claim_disk(self, spans: Iterable[slice]) -> None:
        """Take the disk space of these slots, before they are written through memory: there a full disk kills (SIGBUS).

        Raises:
            RunFailure: When the disk is full, or cannot be written. Nothing has changed.
        """
        try:
            for name, (shape, dtype) in self.layout.columns().items() if hasattr(os, "posix_fallocate") else ():
                size = math.prod(shape) * dtype.itemsize
                with open(self._records_path / f"{name}.memmap", "rb+") as file:
                    for span in spans:
                        os.posix_fallocate(file.fileno(), span.start * size, (span.stop - span.start) * size)
        except OSError as error:
            raise self.unwritable(error) from error

    def unwritable(self, error: OSError) -> RunFailure:
        """Return what is raised when the system refuses to write; what was there before has not changed."""
        return RunFailure(
            f"the replay in {self.folder} cannot be written ({error.strerror}), so this state is not saved; the "
            f"last checkpoint and its replay are whole: {how_to_write(error)}, then go on with --ckpt_path last"
        )

    def raise_high_water(self, written: Tensor) -> None:
        """Note that up to ``written`` (int64 [num_lanes]) records are stored; must precede their storing.

        Being memory-mapped, the note survives the death of the process at any instant.
        """
        torch.maximum(self._high_water, written, out=self._high_water)

    def sync(self) -> None:
        """Wait until everything written so far is on the disk."""
        for path in (self._high_water_path, *sorted(self._records_path.iterdir())):
            with open(path, "rb+") as file:
                os.fsync(file.fileno())

    def _read_info(self) -> dict[str, Any]:
        """Return the bookkeeping, of this format and with everything that is looked up in it."""
        try:
            info = json.loads(self._info_path.read_text(encoding="utf-8"))
            file_format, *_ = [info[key] for key in ("format", "layout", "run", "forks")]
        except (ValueError, TypeError, KeyError) as error:
            raise self._damaged(f"replay.json gives {type(error).__name__}") from error
        if file_format != _FORMAT:
            raise UserError(f"The replay in {self.folder} has file format {file_format}, not {_FORMAT}.")
        return info

    def _require_whole_files(self) -> None:
        """Refuse files of another size: mapping one that is too short would fill it up with zeros."""
        for path, size in self._sizes().items():
            refuse_link(path)
            found = path.stat().st_size if path.is_file() else None
            if found != size:
                what = "is missing" if found is None else f"has {found} bytes, not {size}"
                raise self._damaged(f"{path.relative_to(self.folder)} {what}")

    def _sizes(self) -> dict[Path, int]:
        """Return the bytes of every file that is mapped."""
        sizes = {self._high_water_path: 8 * self.layout.num_lanes}
        for name, (shape, dtype) in self.layout.columns().items():
            sizes[self._records_path / f"{name}.memmap"] = self.layout.slots * math.prod(shape) * dtype.itemsize
        return sizes

    def _damaged(self, how: str) -> UserError:
        return UserError(
            f"The replay in {self.folder} is damaged ({how}). Put a copy of the folder back, or delete it and go on "
            "with an empty replay (--data.allow_empty_replay true, not exact), or start a new run."
        )

    def _require_intact(self, session: int, written: Tensor, oldest: Tensor) -> None:
        start_new = "or start a new run with an empty replay"
        excess = int((self._high_water - written).max())
        if bool((self._high_water - oldest > self.layout.lane_slots).any()):  # the ring went round over what is needed
            raise UserError(
                f"The replay in {self.folder} went on for {excess} records per lane after this checkpoint, more than "
                f"its slack of {self.layout.slack}, and overwrote data that the checkpoint needs. Resume from a newer "
                f"checkpoint, {start_new} (--data.resumable_epochs keeps older ones resumable)."
            )
        later = torch.tensor(self._forks[session + 1 :], dtype=torch.int64).reshape(-1, self.layout.num_lanes)
        if bool((later < written).any()):
            raise UserError(
                f"The replay in {self.folder} was continued from an earlier checkpoint than this one, which replaced "
                f"data that this checkpoint needs. Resume from a checkpoint of the later run, {start_new}."
            )

    def _write_info(self) -> None:
        info = {"format": _FORMAT, "run": self._run, "layout": self.layout.describe(), "forks": self._forks}
        replace_durably(self._info_path, json.dumps(info).encode())

    def _map_high_water(self) -> Tensor:
        size = self.layout.num_lanes
        return torch.from_file(str(self._high_water_path), shared=True, size=size, dtype=torch.int64)

    @property
    def _info_path(self) -> Path:
        return self.folder / "replay.json"

    @property
    def _records_path(self) -> Path:
        return self.folder / "records"

    @property
    def _high_water_path(self) -> Path:
        return self.folder / "high_water.bin"


def holds_replay(folder: str | os.PathLike[str]) -> bool:
    """Return whether a replay was ever written to a folder."""
    return (Path(folder) / "replay.json").exists()
