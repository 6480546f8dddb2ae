"""Where the environments of a data module are: what follows from ``env_workers`` before any process is started."""

from __future__ import annotations

import pytest
from helpers import tiny_data

from plasticity_rl.data import environments


def test_worker_processes_need_no_thread_for_overlap_and_may_draw_with_anything(monkeypatch):
    monkeypatch.setattr("dm_control._render.BACKEND", "glfw")
    for options, in_thread in (
        ({}, False),
        ({"overlap": True}, True),
        ({"overlap": True, "env_workers": 1}, False),
    ):
        data = tiny_data(**options)
        assert data._in_thread == in_thread
        if not in_thread:
            data._refuse_drawing_in_threads()


@pytest.mark.parametrize(
    ("workers", "ranks", "says"),
    [
        (0, 1, ""),
        (2, 1, ""),
        (3, 1, "env_workers=3: more than the 2 cores"),
        (2, 2, "=2 on each of 2 ranks: more than"),
    ],
)
def test_more_workers_than_cores_are_said(workers, ranks, says, monkeypatch):
    monkeypatch.setattr(environments, "available_cores", lambda: 2)
    said = tiny_data(num_envs=4, env_workers=workers, eval_every_n_frames=80).crowded(ranks)
    assert (says in said) if says else not said
