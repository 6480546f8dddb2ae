"""The benchmark of the probes works, at a tiny size; what it measures is not tested: a timing is no assertion."""

from __future__ import annotations

import importlib
import json
from typing import Any

import pytest
from cli_runs import REPOSITORY, write_yaml

import callbacks
from plasticity_rl import Probe

PROBES = [cls for name in callbacks.__all__ if issubclass(cls := getattr(callbacks, name), Probe)]
TINY: dict[str, Any] = {
    "data": {"task": "cartpole_balance", "action_repeat": 20, "image_size": 24, "render": "fast", "batch_size": 8},
    "model": {"num_channels": 4, "feature_dim": 8, "hidden_dim": 16, "num_seed_frames": 300},
}


@pytest.fixture(scope="module")
def benchmark() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(REPOSITORY))
        return importlib.import_module("benchmarks.measurements.probes")


def test_it_prints_a_table_and_writes_json(benchmark, tmp_path, capsys):
    out = tmp_path / "out.json"
    config = write_yaml(tmp_path / "tiny.yaml", TINY)
    benchmark.main(["--config", str(config), "--repeats", "2", "--accelerator", "cpu", "--json", str(out)])
    found = json.loads(out.read_text())
    periods = {cls().name: cls().every_n_updates for cls in PROBES}
    rows = found["costs"]
    assert {name: row["period_updates"] for name, row in rows.items() if name in periods} == periods
    together = [name for name in rows if name.startswith("all ")]
    assert sum(int(name.split()[1]) for name in together) == len(PROBES)
    assert found["shares"]["all_default_probes"] == pytest.approx(sum(rows[name]["share"] for name in together))
    assert found["shares"]["training_batch_fau"] == rows["fraction_active_units"]["share"]
    assert found["targets"] == {"all_default_probes": 0.03, "training_batch_fau": 0.01}
    printed = capsys.readouterr().out
    assert "plain update:" in printed
    assert all(f"\n{name} " in printed for name in rows)
    assert "target <= 3%" in printed


def test_shares_by_hand(benchmark):
    """Plain updates of 1, 2 and 3 s; with the probe 2, 2.5 and 7 s: differences 1, 0.5 and 4, median 1, over 2."""
    probe = callbacks.FractionActiveUnits(every_n_updates=10)
    cost = benchmark.Cost([probe], repeats=3, together_only=True)
    cost.seconds = {name: [2.0, 2.5, 7.0] for name in cost.cases()} | {"": [1.0, 2.0, 3.0]}
    found = cost.results()
    assert found["plain_update_ms"] == 2000
    assert found["costs"]["fraction_active_units"]["cost_ms"] == 1000
    assert found["shares"] == {"all_default_probes": 1 / 2 / 10, "training_batch_fau": 1 / 2 / 10}
    assert found["met"] == {"all_default_probes": False, "training_batch_fau": False}
