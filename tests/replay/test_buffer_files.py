"""The files of a FrameReplay: its folder, its size, what is refused, and what it relies on in TorchRL."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import pytest
import torch
from naive_replay import ACTIONS, CHANNELS, SIZE, Episodes, assert_same_batch, make, run, through_file
from tensordict import TensorDict
from torchrl.data.replay_buffers.samplers import Sampler
from torchrl.data.replay_buffers.storages import Storage
from torchrl.data.replay_buffers.writers import Writer

from plasticity_rl.errors import UserError
from plasticity_rl.machine import capacity
from plasticity_rl.machine.capacity import available_memory
from plasticity_rl.replay.buffer import FrameReplay, check_fits, replay_bytes


@pytest.mark.parametrize("storage", ["ram", "memmap"])
def test_files_of_another_run_are_never_touched(storage, tmp_path):
    first = make(folder=tmp_path)
    run(first, Episodes(1, 3), 40)
    state = first.state_dict()
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    other = make(storage=storage, folder=tmp_path)

    def write_and_flush():
        run(other, Episodes(1, 3), 1)
        other.flush()

    with pytest.raises(UserError, match="another run"):
        write_and_flush()
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = make(folder=tmp_path)
    again.load_state_dict(state)
    assert_same_batch(again.sample(), first.sample())


def test_folder_is_untouched_until_needed(tmp_path):
    replay = make(folder=tmp_path / "replay")
    run(replay, Episodes(1, 3), 5)
    assert not (tmp_path / "replay").exists()
    replay.flush()
    assert (tmp_path / "replay" / "replay.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"capacity": 80}, "capacity is 80 now but 60"),
        ({"slack": 9}, "slack is 9 now but 4"),
        ({"num_lanes": 3}, "num_lanes is 3 now but 1"),
        ({"stack": 1}, None),  # frames are stored singly: the stack may change
    ],
)
def test_another_layout_is_refused_naming_both_values(change, message, tmp_path):
    replay = make(folder=tmp_path, slack=4)
    run(replay, Episodes(1, 3), 30)
    other = make(folder=tmp_path, **({"slack": 4} | change))
    if message is None:
        other.load_state_dict(replay.state_dict())
        assert other.sample()["pixels"].shape == (16, CHANNELS, SIZE, SIZE)
    else:
        with pytest.raises(UserError, match=message):
            other.load_state_dict(replay.state_dict())


def test_missing_or_foreign_folder_is_refused(tmp_path):
    replays = [make(folder=tmp_path / name) for name in "ab"]
    for replay in replays:
        run(replay, Episodes(1, 3), 30)
    states = [replay.state_dict() for replay in replays]
    with pytest.raises(UserError, match="not there"):
        make(folder=tmp_path / "c").load_state_dict(states[0])
    with pytest.raises(UserError, match=f"belongs to run {states[1]['storage']['run']}"):
        make(folder=tmp_path / "b").load_state_dict(states[0])


def keeping(path: Path, num_bytes: int) -> None:
    os.truncate(path, num_bytes)


DAMAGE = {
    "no bookkeeping in it": ("replay.json", lambda path: path.write_text("")),
    "bookkeeping of another kind": ("replay.json", lambda path: path.write_text("[]")),
    "bookkeeping that is no text": ("replay.json", lambda path: path.write_bytes(b"\xff\x00")),
    "bookkeeping without its forks": ("replay.json", lambda path: path.write_text('{"format": 1}')),
    "no records": ("records", shutil.rmtree),
    "no actions": ("records/action.memmap", Path.unlink),
    "no description of the records": ("records/meta.json", Path.unlink),
    "half a description": ("records/meta.json", lambda path: keeping(path, 99)),
    "few frames": ("records/pixels.memmap", lambda path: keeping(path, 100)),
    "a frame too few": ("records/pixels.memmap", lambda path: keeping(path, path.stat().st_size - 1)),
    "no high-water mark": ("high_water.bin", Path.unlink),
    "an empty high-water mark": ("high_water.bin", lambda path: keeping(path, 0)),
}


@pytest.mark.parametrize("storage", ["ram", "memmap"])
@pytest.mark.parametrize(("name", "damage"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_files_are_refused_and_left_alone(name, damage, storage, tmp_path):
    """Mapping a file that is too short would fill it up with zeros, and train on them."""
    replay = make(folder=tmp_path)
    run(replay, Episodes(1, 3), 30)
    state = replay.state_dict()
    damage(tmp_path / name)
    before = {path: path.stat().st_size for path in tmp_path.rglob("*")}
    with pytest.raises(UserError, match=r"replay in \S+ is damaged \(.*\)\. .*allow_empty_replay=True") as refusal:
        make(storage=storage, folder=tmp_path).load_state_dict(state)
    assert "\n" not in str(refusal.value)
    assert {path: path.stat().st_size for path in tmp_path.rglob("*")} == before


def test_memory_only_replay_has_no_persistence():
    replay = make()
    run(replay, Episodes(1, 3), 30)
    assert replay.flush() == 0
    with pytest.raises(UserError, match="memory only"):
        make().load_state_dict(through_file(replay.state_dict()))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"capacity": 5}, "capacity=5 must be at least 6"),
        ({"n_step": 0}, "n_step=0 must be a whole number >= 1"),
        ({"discount": 1.5}, r"discount=1.5 must be in \[0, 1\]"),
        ({"storage": "disk"}, "storage='disk' must be one of .'ram', 'memmap', 'device'"),
        ({"storage": "memmap"}, "needs a folder"),
        ({"slack": -1}, "slack=-1 must be a whole number >= 0"),
    ],
)
def test_bad_arguments_are_named(wrong, message):
    with pytest.raises(UserError, match=message):
        make(**wrong)


def test_obs_shape_must_be_a_stack():
    with pytest.raises(UserError, match="obs_shape"):
        FrameReplay(obs_shape=(8, SIZE, SIZE), action_dim=1, capacity=100)


# ------------------------------------------------------------------------------------------------------- size


def test_size_is_exact_and_nothing_is_touched_up_front(tmp_path):
    replay = make(folder=tmp_path, storage="memmap", capacity=1000, slack=11, num_lanes=3)
    run(replay, Episodes(3, 3), 5)
    stored = TensorDict.load_memmap(tmp_path / "records")
    size = replay_bytes((9, SIZE, SIZE), 3, ACTIONS, 1000, 3, 11)
    assert size == replay.size_bytes == sum(value.numel() * value.itemsize for value in stored.values())
    assert stored.shape == (3 * (334 + 11),)
    full = replay_bytes((9, 84, 84), 3, 6, 1_000_000)
    assert 21.1e9 < full < 21.3e9


def test_files_are_sparse(tmp_path):
    replay = make(folder=tmp_path, storage="memmap", capacity=1_000_000)
    run(replay, Episodes(1, 3), 5)
    assert sum(path.stat().st_blocks * 512 for path in tmp_path.rglob("*")) < 2_000_000 < replay.size_bytes


def test_check_fits_names_need_and_fix(tmp_path):
    check_fits(1000, "ram")
    check_fits(1000, "memmap", tmp_path / "not" / "yet")
    assert available_memory() is None or available_memory() > 0
    with pytest.raises(UserError, match=r"needs 1{18} bytes.*capacity=.*storage='memmap'"):
        check_fits(111111111111111111, "ram")
    with pytest.raises(UserError, match=r"of disk in .*available.*capacity=..."):
        check_fits(111111111111111111, "memmap", tmp_path)


def test_priorities_lie_in_memory_with_either_storage(tmp_path, monkeypatch):
    monkeypatch.setattr(capacity, "available_memory", lambda: 1000)
    for storage, num_bytes, priorities, fits in (
        ("ram", 1000, 0, True),
        ("ram", 900, 101, False),
        ("memmap", 2000, 1000, True),
        ("memmap", 0, 1001, False),
    ):
        refused = pytest.raises(UserError, match=r"100\d bytes .* of memory .*capacity")
        with contextlib.nullcontext() if fits else refused:
            check_fits(num_bytes, storage, tmp_path, priorities)
    with pytest.raises(UserError) as error:
        check_fits(0, "memmap", tmp_path, 1001)
    assert "storage" not in str(error.value), "they stay in memory"


# ------------------------------------------------------------------------------ TorchRL internals relied upon


def test_guard_torchrl_gives_the_sampler_its_generator():
    replay = make()
    assert isinstance(getattr(replay.sampler, "_rng", None), torch.Generator), (
        "TorchRL no longer passes ReplayBuffer(generator=...) to Sampler._rng: WindowSampler would lose its seed"
    )


def test_guard_torchrl_gives_the_writer_its_storage():
    replay = make()
    assert getattr(replay.writer, "_storage", None) is replay.storage, (
        "TorchRL's Writer.register_storage no longer sets Writer._storage, which LaneWriter writes to"
    )


@pytest.mark.parametrize("base", [Sampler, Storage, Writer])
def test_guard_torchrl_empties_through_the_private_hook(base):
    assert callable(getattr(base, "_empty", None)), (
        f"TorchRL's {base.__name__} lost the hook _empty that ReplayBuffer.empty() calls: override its replacement"
    )
