"""Freed memory stays with the process: page faults are counted in processes of their own, with and without."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
from helpers import fit_tiny

FAULTS_OF_TEN_BUFFERS = """
import resource, sys
import torch
from plasticity_rl.machine.malloc import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else None
for _ in range(20):  # 64 MiB; before glibc 2.38 an aligned block does not fit where one of its size was freed
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(2**24)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc only")


def faults(how: str, **variables: str) -> tuple[str, int]:
    """Return what ``keep_freed_memory`` returned, and the page faults of ten buffers of 64 MiB, one after another."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUN"))}
    command = [sys.executable, "-c", FAULTS_OF_TEN_BUFFERS, how]
    result = subprocess.run(command, env=clean | variables, capture_output=True, text=True, check=True)
    kept, count = result.stdout.split()
    return kept, int(count)


@glibc
def test_buffers_that_are_freed_are_used_again() -> None:
    kept, few = faults("keep")
    _, many = faults("leave")
    assert kept == "True"
    assert few * 10 < many


@glibc
def test_a_users_own_settings_stay() -> None:
    assert faults("keep", MALLOC_TRIM_THRESHOLD_="131072")[0] == "False"
    assert faults("keep", GLIBC_TUNABLES="glibc.malloc.trim_threshold=131072")[0] == "False"


def test_every_run_keeps_its_freed_memory(tmp_path, monkeypatch) -> None:
    calls = []
    monkeypatch.setattr("plasticity_rl.agents.base.keep_freed_memory", lambda: calls.append(True))
    fit_tiny(tmp_path)
    assert calls == [True]
