"""Threads of torch on small machines: one for small updates, all cores for large ones, and the user's own number."""

from __future__ import annotations

import os

import pytest
import torch
from helpers import fit_tiny, tiny_sac

from plasticity_rl.agents.flops import flops_per_observation
from plasticity_rl.machine import cores


@pytest.fixture
def two_cores(monkeypatch):
    """A machine of two cores, on which nobody said anything about threads; torch's number is restored."""
    before = torch.get_num_threads()
    monkeypatch.setattr(cores, "available_cores", lambda: 2)
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", cores.CHOOSE):
        monkeypatch.setenv(name, "")  # so that monkeypatch restores what the code under test sets
        monkeypatch.delenv(name)
    yield
    torch.set_num_threads(before)


def chosen() -> tuple[str | None, ...]:
    return tuple(os.environ.get(name) for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", cores.CHOOSE))


def test_two_cores_start_with_one_thread_that_waits_idly(two_cores):
    cores.start_with_one()
    assert chosen() == ("1", "passive", "1")


def test_the_users_number_counts(two_cores, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    cores.start_with_one()
    assert chosen() == ("2", None, None)


def test_more_cores_are_left_to_torch(two_cores, monkeypatch):
    monkeypatch.setattr(cores, "available_cores", lambda: 8)
    cores.start_with_one()
    assert chosen() == (None, None, None)


@pytest.mark.parametrize(("limit", "expected"), [(0.0, 2), (1e12, 1)])
def test_only_large_updates_use_all_cores(two_cores, monkeypatch, tmp_path, limit, expected):
    cores.start_with_one()
    torch.set_num_threads(1)
    monkeypatch.setattr(cores, "LARGE_BATCH_FLOPS", limit)
    fit_tiny(tmp_path)
    assert torch.get_num_threads() == expected


def test_a_number_given_by_the_user_stays(two_cores, monkeypatch, tmp_path):
    monkeypatch.setattr(cores, "LARGE_BATCH_FLOPS", 0.0)
    torch.set_num_threads(1)
    fit_tiny(tmp_path)
    assert torch.get_num_threads() == 1


def test_operations_are_those_of_all_networks(tmp_path):
    agent = fit_tiny(tmp_path, make_agent=tiny_sac, data_options={"observation": "state"}, max_frames=100)
    linear = [m for name in agent.module_names for m in agent.module(name).modules() if isinstance(m, torch.nn.Linear)]
    assert flops_per_observation(agent) == sum(2 * m.in_features * m.out_features for m in linear)


def test_full_size_is_large_and_quickstart_is_not():
    """By the multiplications of the encoder alone, written out: 3x3 convolutions, the first with stride 2."""

    def encoder_flops(size: int, channels: int) -> int:
        sides = [(size - 3) // 2 + 1 - 2 * layer for layer in range(4)]
        inputs = [9, channels, channels, channels]
        return sum(2 * side * side * channels * 9 * count for side, count in zip(sides, inputs, strict=True))

    assert encoder_flops(84, 32) * 256 > cores.LARGE_BATCH_FLOPS > 2 * encoder_flops(48, 8) * 64
