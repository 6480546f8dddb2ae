"""Nothing is downloaded, or told to anybody, unless an option asks for it."""

from __future__ import annotations

import socket

from cli_runs import TINY, call, fit_tiny_cli


def test_training_evaluating_and_measuring_ask_nothing_of_the_network(tmp_path, monkeypatch):
    asked = []

    def refuse(*args, **options):
        asked.append(args)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    fit_tiny_cli(tmp_path, "--trainer.callbacks+=callbacks.DormantUnits", max_frames=100)
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert call("validate", *TINY, f"--ckpt_path={last}").code == 0
    assert call("probe", last, "--probes", "WeightNorm").code == 0
    assert asked == []
