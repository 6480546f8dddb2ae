"""SIGKILL while the state is written down, and at random times."""

from __future__ import annotations

import pytest
from fault_campaign import KILL_POINTS, campaign, finish, killed_at, result, start
from run_state import differences

from callbacks import Reset


def make() -> list:
    return [Reset(modules=["critic.Q1"], every_n_frames=50)]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    assert finish(start(folder, make, "ram")) == 0
    return result(folder)


QUICK = ("replay: before its records are copied", "checkpoint: half written", "checkpoint: before it takes its name")


@pytest.mark.parametrize("point", [pytest.param(p, marks=() if p in QUICK else pytest.mark.slow) for p in KILL_POINTS])
def test_a_kill_while_a_checkpoint_is_written_loses_nothing(point, straight, tmp_path):
    assert differences(straight, killed_at(point, tmp_path, "ram", make)) == []


@pytest.mark.parametrize("point", [p for p in KILL_POINTS if "disk space" not in p])
@pytest.mark.slow
def test_the_same_with_a_replay_on_disk(point, straight, tmp_path):
    assert differences(straight, killed_at(point, tmp_path, "memmap", make)) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_kills_over_the_callbacks_lose_nothing(tmp_path):
    assert [row for row in campaign(40, 1, tmp_path) if row[3]] == []
