"""Checkpoint files: written so that a crash leaves the old one or the new one, read so that nothing in them can run."""

from __future__ import annotations

import functools
import importlib.metadata
import io
import os
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from plasticity_rl.errors import RunFailure, UserError
from plasticity_rl.files.writing import replace_file
from plasticity_rl.machine.failures import how_to_write

PACKAGES = ("plasticity-rl", "torch", "torchrl", "tensordict", "lightning", "dm_control", "mujoco", "numpy")
"""Whose versions are noted in checkpoints and in ``starts.yaml``."""
LAST_CHECKPOINT = "last.ckpt"
"""Name of the file that holds the newest state of a run."""
DRAFT = ".checkpoint.tmp"
"""Where a checkpoint is written before it takes the place of the last one: in the same folder, so that it can."""
CONFIGURATION = "plasticity_rl_configuration"
"""Key of what the command line puts into a checkpoint, so that its run can be built from the file alone."""
_PLAIN = frozenset({type(None), bool, int, float, str, bytes, torch.Tensor, torch.nn.Parameter})
"""Types of single values that are read with ``weights_only=True``; others, and subclasses of them, are tried out."""
_CALLBACKS = "callbacks"
"""Key under which Lightning puts the states of callbacks, by their keys: class and arguments."""


@functools.cache
def versions() -> Mapping[str, str]:
    """Return the installed versions of the packages that decide what a run computes."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's way to checkpoint files, with three differences.

    A checkpoint is written beside the old one, brought to the disk, and only then takes its name: Lightning's goes
    through the system's folder for temporary files, perhaps another disk, and is not synced. It is read only when every
    byte fits the checksums in the file, and never with a pickle that could execute code.

    Args:
        reader: By which it may have been read before; None for one of its own.
    """

    def __init__(self, reader: CheckpointReader | None = None) -> None:
        self._reader = reader or CheckpointReader()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``checkpoint``, with the versions of the packages, or leave the file at ``path`` as it is.

        Raises:
            UserError: When something in it could not be read again, such as the state of a callback of one's own.
            RunFailure: When the disk is full or cannot be written.
        """
        refuse_unreadable(checkpoint)
        checkpoint = {**checkpoint, "written_by": dict(versions())}
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_durably(path, buffer.getbuffer())
        except OSError as error:
            raise RunFailure(
                f"the checkpoint {path} cannot be written ({error.strerror}); "
                + (f"{path} is still the one before: " if path.exists() else "")
                + f"{how_to_write(error)}, then go on with --ckpt_path last"
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Return the checkpoint, on the CPU.

        Raises:
            UserError: When the file is missing, damaged or not of this framework, or code from it would be executed.
        """
        if weights_only is False:
            raise UserError("weights_only=False would execute code from the checkpoint; leave it out")
        checkpoint = self._reader.take(path)
        warn_other_versions(checkpoint.get("written_by", {}), path)
        return checkpoint


def replace_durably(path: Path, content: bytes | memoryview) -> None:
    """Write ``content`` to ``path`` so that a reader, also after a crash, finds all of it or what was there before."""
    replace_file(path, content, durable=True, draft=DRAFT)


def refuse_unreadable(checkpoint: Mapping[str, Any]) -> None:
    """Raise UserError naming the first value that ``read_checkpoint`` would refuse, and where it comes from.

    At every save, for a state may be plain at first: what is walked over are containers, never the values of a tensor.
    """
    found = next(_unreadable(checkpoint, ()), None)
    if found is None:
        return
    path, value = found
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    whose, keys = "the checkpoint holds", path
    if path[0] == _CALLBACKS and len(path) > 1:
        whose, keys = f"{str(path[1]).partition('{')[0].rpartition('.')[2]}.state_dict() returns", path[2:]
    raise UserError(
        f"{whose} a {kind}{f' at {keys[0]!r}' if keys else ''}{''.join(f'[{key!r}]' for key in keys[1:])}, and no "
        "checkpoint with it could be read again: give tensors and plain Python (numbers, text, lists, dicts), such as "
        "float(x) of a NumPy number, torch.from_numpy(x) of an array, list(x) of a deque"
    )


def _unreadable(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield what cannot be read again in ``value``, each with the keys that lead to it."""
    kind = type(value)
    if kind in _PLAIN:
        return
    if kind in (dict, OrderedDict):
        for key, item in value.items():
            yield from _unreadable(key, (*path, key))
            yield from _unreadable(item, (*path, key))
    elif kind in (list, tuple, set):
        for index, item in enumerate(value):
            yield from _unreadable(item, (*path, index))
    elif not _can_be_read(value):
        yield path, value


def _can_be_read(value: Any) -> bool:
    """Return whether a value of an unusual type comes back from a file."""
    buffer = io.BytesIO()
    try:
        torch.save(value, buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)
    except Exception:  # what pickling gives for locks, files and lambdas is of many kinds
        return False
    return True


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Load a checkpoint, or raise UserError when the file is damaged or was not written by this framework."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; give a checkpoint, RUN/checkpoints/last.ckpt")
    try:
        # torch writes the checksum of every record but does not look at it when reading: flipped bits would be weights.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(damaged)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # every byte is as it was written
        classes = ", ".join(_classes_in(path))
        raise UserError(
            f"{path} is not damaged, but holds what may not be loaded, since that could run code"
            f"{f' ({classes})' if classes else ''}: a state_dict or an attribute was saved that is neither tensor nor "
            "plain Python; use a checkpoint without it"
        ) from error
    except Exception as error:  # torch raises KeyError, EOFError, OSError, RuntimeError, UnpicklingError ...
        raise UserError(
            f"{path} is not a checkpoint, or is damaged (reading it gave {type(error).__name__}); "
            "use another one of the run's checkpoints/"
        ) from error
    if not isinstance(checkpoint, dict) or "rl" not in checkpoint:
        raise UserError(f"{path} is not a checkpoint of plasticity_rl: it holds no 'rl' entry")
    return checkpoint


def _classes_in(path: str | os.PathLike[str]) -> list[str]:
    """Return what an intact file names of code, without running any of it; nothing where torch cannot say."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # a pickle that is written by hand
        return []


class CheckpointReader:
    """Reads a checkpoint from the disk once: who looks at it first leaves it for the one who loads it.

    It holds one at most, and none once it was taken, so that no second copy of a state lies in memory.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._checkpoint: dict[str, Any] = {}

    def look(self, path: str | os.PathLike[str]) -> Mapping[str, Any]:
        """Return a checkpoint, and keep it for :meth:`take`.

        Raises:
            UserError: When the file is missing, damaged or not of this framework.
        """
        if self._path != Path(path).resolve():
            self.forget()
            self._checkpoint = read_checkpoint(path)
            self._path = Path(path).resolve()
        return self._checkpoint

    def take(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Return a checkpoint, and forget it."""
        self.look(path)
        checkpoint = self._checkpoint
        self.forget()
        return checkpoint

    def forget(self) -> None:
        """Hold none."""
        self._path, self._checkpoint = None, {}


def warn_other_versions(written_by: Mapping[str, str], path: str | os.PathLike[str]) -> None:
    """Warn when a checkpoint was written with other versions: going on is possible, but perhaps not bit for bit."""
    now = versions()
    other = [f"{name} {old} (now {now[name]})" for name, old in written_by.items() if now.get(name, old) != old]
    if other:
        warnings.warn(
            f"{path} was written with {', '.join(other)}: a resumed run may differ from the original in its numbers",
            stacklevel=2,
        )


def refuse_other_architecture(saved: Mapping[str, list[int]], current: Mapping[str, list[int]]) -> None:
    """Raise UserError naming the first parameter in which a checkpoint and the agent differ."""
    for name in [*saved, *current]:
        if saved.get(name) != current.get(name):
            raise UserError(
                f"the checkpoint is of another network: {name} is {saved.get(name, 'absent')} there "
                f"and {current.get(name, 'absent')} here; use the --model and --data options of the run that wrote it"
            )
