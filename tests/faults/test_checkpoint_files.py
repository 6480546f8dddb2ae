"""Checkpoint files that are damaged, foreign or hostile are refused in one line, before anything is touched."""

from __future__ import annotations

import io
import os
import pickle
import random
import shutil
import zipfile
from collections import Counter, OrderedDict, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_runs import TINY, call, fit_tiny_cli, tree
from helpers import fit_tiny
from run_state import differences, fingerprint
from tensordict import TensorDict

from plasticity_rl import Probe, UserError, checkpoint_files
from plasticity_rl.checkpoint_files import (
    DRAFT,
    AtomicCheckpointIO,
    CheckpointReader,
    read_checkpoint,
    refuse_unreadable,
    replace_durably,
)
from plasticity_rl.errors import RunFailure
from plasticity_rl.files import writing


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("finished")
    fit_tiny_cli(run, max_frames=100)
    return run


@pytest.fixture(scope="module")
def content(finished) -> bytes:
    return (finished / "checkpoints" / "last.ckpt").read_bytes()


def test_a_checkpoint_notes_the_versions_of_the_packages(finished):
    written_by = read_checkpoint(finished / "checkpoints" / "last.ckpt")["written_by"]
    assert written_by["torch"] == torch.__version__.split("+")[0] or written_by["torch"] in torch.__version__
    assert set(written_by) == set(checkpoint_files.PACKAGES)


# ---- damage ----------------------------------------------------------------------------------------------------------


def test_a_flipped_bit_is_refused_or_means_nothing(content, tmp_path):
    """Some bytes of a zip archive mean nothing: padding, dates. torch alone would load most flips as weights."""
    path, rng = tmp_path / "flipped.ckpt", random.Random(1)
    path.write_bytes(content)
    whole, refused = fingerprint(read_checkpoint(path)), 0
    for _ in range(40):
        damaged, position = bytearray(content), rng.randrange(len(content))
        damaged[position] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            read = read_checkpoint(path)
        except UserError:
            refused += 1
        else:
            assert differences(fingerprint(read), whole) == []
    assert refused >= 20


def with_flipped_weight(content: bytes) -> bytes:
    """Return the file with one bit of its biggest tensor flipped."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        tensors = [archive.read(info) for info in archive.infolist() if "/data/" in info.filename]
    damaged = bytearray(content)
    damaged[content.index(max(tensors, key=len)) + 1] ^= 1
    return bytes(damaged)


def test_a_flipped_weight_is_refused_which_torch_would_load(content, tmp_path):
    path = tmp_path / "flipped.ckpt"
    path.write_bytes(with_flipped_weight(content))
    torch.load(path, weights_only=True)
    with pytest.raises(UserError, match=r"damaged \(reading it gave BadZipFile\); use another one of the run's"):
        read_checkpoint(path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99, "one byte less"])
def test_a_truncated_file_is_refused(share, content, tmp_path):
    path = tmp_path / "short.ckpt"
    path.write_bytes(content[: len(content) - 1 if isinstance(share, str) else int(share * len(content))])
    with pytest.raises(UserError, match="is not a checkpoint, or is damaged"):
        read_checkpoint(path)


def test_a_damaged_checkpoint_leaves_its_run_untouched(finished, content):
    path = finished / "checkpoints" / "damaged.ckpt"
    path.write_bytes(with_flipped_weight(content))
    before = tree(finished)
    for command in ("fit", "validate", "probe"):
        args = (
            [path] if command == "probe" else [*TINY, f"--ckpt_path={path}", f"--trainer.default_root_dir={finished}"]
        )
        result = call(command, *args)
        assert result.code == 2
        assert f"{path} is not a checkpoint, or is damaged" in result.err
        assert len(result.err.strip().splitlines()) == 1
    assert tree(finished) == before
    with pytest.raises(UserError, match="damaged"):
        fit_tiny(finished, ckpt_path=str(path))
    path.unlink()


# ---- hostile files ---------------------------------------------------------------------------------------------------


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def hostile_files(folder: Path, marker: Path) -> list[Path]:
    paths = [folder / f"{name}.ckpt" for name in ("plain", "zip", "legacy", "inside")]
    paths[0].write_bytes(pickle.dumps({"rl": Hostile(marker)}))
    torch.save(Hostile(marker), paths[1])
    torch.save({"rl": Hostile(marker)}, paths[2], _use_new_zipfile_serialization=False)
    torch.save({"rl": {}, "state_dict": {"w": torch.zeros(2), "x": Hostile(marker)}}, paths[3])
    return paths


def test_no_way_to_load_a_checkpoint_executes_it(finished, tmp_path):
    (tmp_path / "files").mkdir()
    marker = tmp_path / "executed"
    for path in hostile_files(tmp_path / "files", marker):
        with pytest.raises(UserError):
            fit_tiny(tmp_path / "run", ckpt_path=str(path))
        assert not marker.exists()
    inside = shutil.copy(path, finished / "checkpoints" / "hostile.ckpt")  # the last one: a zip like any other
    options = [*TINY, f"--ckpt_path={inside}", f"--trainer.default_root_dir={tmp_path / 'run'}"]
    for args in (
        ["fit", *options],
        ["validate", *options],
        ["probe", inside],
        ["fit", *options, "--weights_only=false"],
    ):
        result = call(*args)
        assert result.code == 2
        assert len(result.err.strip().splitlines()) == 1
        assert not marker.exists()
    Path(inside).unlink()
    assert not (tmp_path / "run" / "checkpoints").exists()
    pickle.loads((tmp_path / "files" / "plain.ckpt").read_bytes())
    assert marker.exists(), "a file of this test would have executed nothing"


def test_switching_the_protection_off_is_refused(finished):
    with pytest.raises(UserError, match="weights_only=False would execute code"):
        AtomicCheckpointIO().load_checkpoint(finished / "checkpoints" / "last.ckpt", weights_only=False)


# ---- what nobody could load again ------------------------------------------------------------------------------------


class Keeps(Probe):
    """Has a state of its own."""

    def __init__(self, *, every_n_updates: int = 1) -> None:
        super().__init__(every_n_updates=every_n_updates)
        self.kept: Any = None

    def state_dict(self):
        return {**super().state_dict(), "kept": {"first": [self.kept]}}

    def measure(self, agent, batch, metrics):
        return {"kept": 1.0}


@pytest.mark.parametrize(
    ("kept", "kind"),
    [
        (np.float64(1.5), "numpy.float64"),
        (np.zeros(3), "numpy.ndarray"),
        (deque([1.0]), "collections.deque"),
        (Keeps(), r"[\w.]*test_checkpoint_files\.Keeps"),
        (lambda: 1.0, "builtins.function"),
    ],
    ids=["number", "array", "deque", "object", "function"],
)
def test_a_state_that_could_not_be_read_again_is_refused_at_the_first_save(kept, kind, tmp_path):
    keeps = Keeps()
    keeps.kept = kept
    with pytest.raises(
        UserError, match=rf"^Keeps.state_dict\(\) returns a {kind} at 'kept'\['first'\]\[0\], and no .* give tensors"
    ):
        fit_tiny(tmp_path, callbacks=[keeps])
    assert not list(tmp_path.rglob("*.ckpt"))


def test_what_is_refused_at_a_save_is_what_a_file_cannot_hold(tmp_path):
    """Whoever walks over a checkpoint says of every value what torch says of a file with it."""
    values = [None, True, 3, 1.5, "text", b"bytes", 1j, torch.zeros(2), torch.nn.Parameter(torch.zeros(2)), {1}, (1, 2)]
    values += [OrderedDict(a=1), Counter("aab"), torch.float64, torch.device("cpu"), torch.Size([2]), {(1, 2): "key"}]
    values += [np.int64(3), {np.int64(3): 1}, Path("a"), TensorDict({}), slice(1), frozenset({1}), range(3), Keeps]
    for value in values:
        torch.save({"rl": {"value": value}}, tmp_path / "plain.ckpt")
        try:
            read_checkpoint(tmp_path / "plain.ckpt")
        except UserError:
            with pytest.raises(UserError, match=r"^the checkpoint holds a .* at 'rl'\['value'\]"):
                refuse_unreadable({"rl": {"value": value}})
        else:
            refuse_unreadable({"rl": {"value": value}})


def test_an_intact_file_that_may_not_be_loaded_is_not_called_damaged(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save({"rl": {}, "callbacks": {"Keeps": {"kept": deque([1.0])}}}, path)
    with pytest.raises(UserError, match=r"is not damaged, but holds what may not .* \(collections.deque\): a"):
        read_checkpoint(path)


# ---- other versions --------------------------------------------------------------------------------------------------


def test_another_version_of_a_library_is_named(finished, tmp_path):
    checkpoint = read_checkpoint(finished / "checkpoints" / "last.ckpt")
    checkpoint["written_by"] |= {"torch": "1.0", "mujoco": "2.0"}
    path = tmp_path / "old.ckpt"
    torch.save(checkpoint, path)
    torch_now, mujoco_now = (checkpoint_files.versions()[name] for name in ("torch", "mujoco"))
    expected = rf"written with torch 1.0 \(now {torch_now[:5]}.*\), mujoco 2.0 \(now {mujoco_now}\): a resumed run may"
    with pytest.warns(UserWarning, match=expected):
        AtomicCheckpointIO().load_checkpoint(path)


# ---- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call_that_fails", ["open", "fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(call_that_fails, tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    replace_durably(path, b"old")

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing if call_that_fails == "open" else os, call_that_fails, full, raising=False)
    with pytest.raises(
        RunFailure, match=r"cannot be written \(No space left on device\); .*last.ckpt is still the one"
    ):
        AtomicCheckpointIO().save_checkpoint({"rl": {}}, path)
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    assert not (tmp_path / DRAFT).exists()


def test_what_was_looked_at_is_given_away_and_then_nothing_is_held(finished, monkeypatch):
    path = finished / "checkpoints" / "last.ckpt"
    reads = []
    monkeypatch.setattr(
        "plasticity_rl.checkpoint_files.read_checkpoint", lambda path: reads.append(path) or {"number": len(reads)}
    )
    reader = CheckpointReader()
    seen = reader.look(path)
    assert reader.look(str(path)) is seen
    assert reader.take(path.parent / "." / path.name) is seen
    assert reads == [path]
    assert AtomicCheckpointIO(reader).load_checkpoint(path) == {"number": 2}  # read anew: none was held
    reader.look(path)
    reader.look(finished / "other.ckpt")  # takes the place of the first
    assert reader.take(path) == {"number": 5}
