"""What the probes cost, as a share of the update time at their default periods.

    python -m benchmarks probes                                      # the size of configs/quickstart.yaml
    python -m benchmarks probes -- --config configs/drqv2.yaml --repeats 5 --together-only --json probe_cost.json

Every repeat times one plain update and then one update with each probe, and with all probes of a period together (they
share one forward pass), side by side; sampling the batch counts as part of an update, and reading and writing what was
measured as part of a probe. A cost is the median over the repeats of the difference to the plain update of the same
repeat; a share is that cost divided by the period and by the median plain update. The shares of the periods add up to
what all default probes cost together. Between the quartiles of its cost lies half of the repeats.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml

import callbacks
from benchmarks.harness.options import Options
from plasticity_rl import DrQV2, Probe, RLDataModule, make_trainer
from plasticity_rl.run.trainer import run_logger
from plasticity_rl.run.video import EvalVideo

TARGETS = {"all_default_probes": 0.03, "training_batch_fau": 0.01}
"""Largest shares of the update time that we accept."""


class Cost(pl.Callback):
    """Measures at the end of a short run, when replay and optimizers are as in training.

    Args:
        probes: Probes, already set up; only this callback calls them.
        repeats: Updates timed with each probe, and without any.
        together_only: Leave out the single probes, but for the fraction of active units.
    """

    def __init__(self, probes: list[Probe], repeats: int, together_only: bool) -> None:
        self.probes, self.repeats, self.together_only = probes, repeats, together_only
        self.seconds: dict[str, list[float]] = {}
        self.device = ""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for probe in self.probes:
            probe.setup(trainer, pl_module, stage)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for probe in self.probes:
            probe.on_fit_start(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, agent: Any) -> None:
        cuda = agent.device.type == "cuda"
        self.device = torch.cuda.get_device_name(agent.device) if cuda else f"CPU, {torch.get_num_threads()} threads"
        for repeat in range(self.repeats + 1):
            for name, probes in self.cases().items():
                seconds = self.timed_update(agent, probes)
                if repeat > 0:  # the first one warms up
                    self.seconds.setdefault(name, []).append(seconds)

    def cases(self) -> dict[str, list[Probe]]:
        """Return what is timed: nothing, each probe, and all probes of each period."""
        alone = [p for p in self.probes if not self.together_only or isinstance(p, callbacks.FractionActiveUnits)]
        cases: dict[str, list[Probe]] = {"": [], **{probe.name: [probe] for probe in alone}}
        for period in sorted({probe.every_n_updates for probe in self.probes}):
            due = [probe for probe in self.probes if probe.every_n_updates == period]
            cases[f"all {len(due)} of period {period}"] = due
        return cases

    def timed_update(self, agent: Any, probes: list[Probe]) -> float:
        start = _now(agent)
        for probe in probes:
            probe.begin(agent)
        batch = agent.data.replay.sample().to(agent.device)
        metrics = agent.update(batch)
        agent.num_updates += 1
        agent._once_per_update = {}  # what dispatch does: probes that measure at one update share their work
        for probe in probes:
            agent.log_scalars(probe.measure(agent, batch, metrics))
        agent._once_per_update = None
        return _now(agent) - start

    def results(self) -> dict[str, Any]:
        """Return all costs and shares, and whether the targets are met, as plain data."""
        plain = statistics.median(self.seconds[""])
        rows = {}
        for name, probes in self.cases().items():
            if probes:
                extra = [with_it - alone for with_it, alone in zip(self.seconds[name], self.seconds[""], strict=True)]
                cost, period = statistics.median(extra), probes[0].every_n_updates
                quartiles = statistics.quantiles(extra, n=4) if len(extra) > 1 else [cost] * 3
                rows[name] = {
                    "period_updates": period,
                    "cost_ms": cost * 1e3,
                    "cost_quartiles_ms": [quartiles[0] * 1e3, quartiles[2] * 1e3],
                    "share": cost / period / plain,
                }
        shares = {"all_default_probes": sum(row["share"] for name, row in rows.items() if name.startswith("all "))}
        if "fraction_active_units" in rows:
            shares["training_batch_fau"] = rows["fraction_active_units"]["share"]
        return {
            "device": self.device,
            "torch": torch.__version__,
            "repeats": self.repeats,
            "plain_update_ms": plain * 1e3,
            "costs": rows,
            "shares": shares,
            "targets": {name: TARGETS[name] for name in shares},
            "met": {name: share <= TARGETS[name] for name, share in shares.items()},
        }


def _now(agent: Any) -> float:
    if agent.device.type == "cuda":  # which otherwise is still at work when the call returns
        torch.cuda.synchronize(agent.device)
    return time.perf_counter()


def run(options: Options) -> dict[str, Any]:
    """Measure and print; return what is kept."""
    return {"rows": main(options.probes), "options": options.probes}


def main(args: Sequence[str]) -> list[dict[str, Any]]:
    """Measure and print; return a row for the plain update, for every cost and for all of them together."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks probes --", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/quickstart.yaml", help="its data and model sections are used")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--together-only", action="store_true", help="leave out the single probes, but for FAU")
    parser.add_argument("--without", nargs="*", default=[], metavar="PROBE", help="e.g. RandomTargetFit, which is slow")
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON too")
    options = parser.parse_args(args)
    config = yaml.safe_load(Path(options.config).read_text())
    seed_frames = config["model"].get("num_seed_frames", 4000)
    data = RLDataModule(**{**config["data"], "num_eval_episodes": 1, "max_frames": seed_frames + 100, "seed": 1})
    agent = DrQV2(data.obs_shape, data.action_dim, **config["model"])
    classes = [getattr(callbacks, name) for name in callbacks.__all__ if name not in options.without]
    probes = [cls() for cls in classes if issubclass(cls, Probe)]
    cost = Cost(probes, options.repeats, options.together_only)
    with tempfile.TemporaryDirectory() as folder:
        quiet = {"enable_progress_bar": False, "enable_checkpointing": False, "accelerator": options.accelerator}
        given = [cost, EvalVideo(every_n_evals=0)]
        make_trainer(folder, callbacks=given, logger=run_logger(folder), **quiet).fit(agent, data)
    results = {"config": options.config, "left_out": options.without, **cost.results()}
    print(table(results))
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    return [
        {"name": "plain update", "ms": results["plain_update_ms"]},
        *({"name": name, "ms": row["cost_ms"], **row} for name, row in results["costs"].items()),
        {"name": "all of these", "share": results["shares"]["all_default_probes"]},
    ]


def table(results: dict[str, Any]) -> str:
    """Return the results to read."""
    lines = [
        f"{results['device']}, torch {results['torch']}, {results['config']}",
        f"plain update: {results['plain_update_ms']:.1f} ms (median of {results['repeats']})",
        "",
        f"{'probe':24} {'cost, ms':>10} {'quartiles, ms':>20} {'period':>8} {'share':>9}",
    ]
    for name, row in results["costs"].items():
        low, high = row["cost_quartiles_ms"]
        lines.append(
            f"{name:24} {row['cost_ms']:10.2f} {low:10.2f}{high:10.2f} {row['period_updates']:8} {row['share']:9.3%}"
        )
    lines.append("")
    for name, share in results["shares"].items():
        words = "met" if results["met"][name] else "missed"
        target = results["targets"][name]
        lines.append(f"{name.replace('_', ' '):24} {share:.3%} of the update time; target <= {target:.0%}: {words}")
    return "\n".join(lines)
