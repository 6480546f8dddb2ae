"""Lightning's WandbLogger with the real package ``wandb``, offline; what it wrote is read back from its file.

Skipped where ``wandb`` is not installed (``pip install wandb``); no account and no network are needed.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import fit_tiny
from lightning.pytorch.loggers import WandbLogger

from callbacks import FractionActiveUnits, Reset

wandb = pytest.importorskip("wandb", reason="the package wandb is not installed")

BLOCK = 32768
"""Bytes of a block of LevelDB's log format, in which wandb writes; a record may be cut at its end."""


def records(path: Path) -> Iterator[bytes]:
    """Yield the records of a ``.wandb`` file: behind 7 bytes of its own, header (crc, size, kind) and data of each."""
    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole one, or its last part
            yield parts
            parts = b""


def written(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, str]]:
    """Return the rows of the history, the config, and the x-axis of every metric."""
    from wandb.proto.wandb_internal_pb2 import Record

    rows, config, axes = [], {}, {}
    for data in records(path):
        record = Record.FromString(data)
        if record.HasField("history"):
            items = record.history.item
            rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
        for changed in (record.config, record.run.config):
            config |= {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in changed.update}
        if record.HasField("metric"):
            axes[record.metric.name or record.metric.glob_name] = record.metric.step_metric
    return rows, config, axes


def test_a_run_offline_has_every_scalar_against_env_frames(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(project="plasticity", save_dir=tmp_path, offline=True)
    given = [Reset(modules=["critic"], at_frames=[100]), FractionActiveUnits(every_n_updates=5)]
    agent = fit_tiny(tmp_path, callbacks=given, trainer_options={"logger": logger, "log_every_n_steps": 10})
    wandb.finish()
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    rows, config, axes = written(path)

    assert axes["*"] == "trainer/global_step"
    frames = [row["trainer/global_step"] for row in rows]
    assert frames == sorted(frames)
    assert frames[-1] == 200
    points = lambda tag: {row["trainer/global_step"]: row[tag] for row in rows if tag in row}  # noqa: E731
    assert points("eval/return") == pytest.approx(dict(agent.eval_returns))
    assert points("intervention/reset")[104] == 1
    assert points("fau/critic")[200] == pytest.approx(agent.latest["fau/critic"])
    assert points("hparam/last_return")[200] == pytest.approx(agent.eval_returns[-1][1])
    assert config["interventions"] == "Reset"
    assert config["interventions/Reset/at_frames"] == "[100]"
