"""What a checkpoint costs: the bytes that go to the disk are those of what is new, however much the replay holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import fit_tiny
from tensordict import TensorDict

from plasticity_rl.callback import RLCallback
from plasticity_rl.replay.buffer import FrameReplay

FRAME = (3, 84, 84)
RECORD = 3 * 84 * 84 + 4 + 4 + 4 + 8 + 1
"""Bytes of a frame, an action of one number, reward, discount, position in the episode, end."""
FILES, PAGE = 8, 4096
"""Six columns, the bookkeeping, the high-water mark: each may share its first and last page with what is old."""
MIB = 2**20


def written_bytes() -> int:
    """Return how many bytes this process has given the disk to write, those of memory-mapped files included."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["write_bytes"])


@pytest.fixture
def disk(tmp_path) -> Path:
    """A folder on a disk whose writes are counted: those into a file system in memory are not."""
    try:
        before = written_bytes()
        (tmp_path / "probe").write_bytes(bytes(MIB))
        if written_bytes() - before < MIB:
            raise OSError("not counted")
    except (OSError, KeyError):
        pytest.skip("the system does not count the bytes written here")
    return tmp_path


def write(replay: FrameReplay, num_records: int) -> None:
    """Write records of one endless episode: random frames, so that no page stays as it was."""
    frames = torch.randint(0, 256, (num_records + 1, *FRAME), dtype=torch.uint8)
    ends = {"reward": torch.zeros(1, 1), "discount": torch.ones(1, 1), "done": torch.zeros(1, 1, dtype=torch.bool)}
    for now, after in zip(frames[:-1], frames[1:], strict=True):
        step = {"pixels": now[None], "action": torch.zeros(1, 1), "next": {"pixels": after[None], **ends}}
        replay.write(TensorDict(step, batch_size=1))


@pytest.mark.parametrize("storage", ["ram", "memmap"])
@pytest.mark.parametrize("held", [100, 700], ids=["filling", "gone round"])
def test_saving_the_replay_writes_what_is_new(held, storage, disk):
    """A ring of 500 records (10 MB) that holds 100 of them, or went round; then 5, 20 and 80 new ones."""
    shape = {"obs_shape": FRAME, "action_dim": 1, "frame_stack": 1, "n_step": 1, "batch_size": 8}
    replay = FrameReplay(capacity=500, slack=100, storage=storage, folder=disk / "replay", **shape)
    write(replay, held)
    replay.state_dict()
    for new in (5, 20, 80):
        before = written_bytes()
        write(replay, new)
        replay.state_dict()
        cost = written_bytes() - before
        assert new * RECORD <= cost <= new * RECORD + 3 * FILES * PAGE
    before = written_bytes()
    replay.state_dict()
    assert written_bytes() - before <= FILES * PAGE


class Cost(RLCallback):
    """Notes what was written by the beginning of every evaluation, i.e. by an epoch and the checkpoints before it."""

    def __init__(self) -> None:
        self.written: list[int] = []

    def on_validation_start(self, trainer, pl_module) -> None:
        self.written.append(written_bytes())


@pytest.mark.parametrize("storage", ["ram", pytest.param("memmap", marks=pytest.mark.slow)])
def test_a_checkpoint_of_a_run_costs_what_is_new_whatever_the_replay_holds(storage, disk):
    """A checkpoint every 40 records, 0.85 MB, until 13 MB are held."""
    cost = Cost()
    agent = fit_tiny(
        disk / "run",
        callbacks=[cost],
        max_frames=1280,
        data_options={"storage": storage, "image_size": 84, "capacity": 1000, "eval_every_n_frames": 80},
        agent_options={"replay_ratio": 0.05},
    )
    files = (disk / "run" / "checkpoints").iterdir()  # the last, and at times the best: 1.4 MB each
    checkpoints = sum(path.stat().st_size for path in files)
    costs = [after - before for before, after in zip(cost.written[2:], cost.written[3:], strict=False)]
    assert len(costs) == 13
    held = len(agent.data.replay) * RECORD
    new = 42 * RECORD  # an episode has 20 steps and one record more
    ahead = 100 * RECORD if storage == "memmap" else 0  # disk space is taken for 100 records at a time
    for one in costs:
        assert one <= new + ahead + checkpoints + 3 * FILES * PAGE, costs
    assert max(costs[-3:]) <= 1.5 * max(costs[:3]) < held / 2, costs
