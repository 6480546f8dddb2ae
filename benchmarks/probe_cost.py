"""What the probes cost, as a share of the update time at their default periods.

    python benchmarks/probe_cost.py                                  # the size of configs/quickstart.yaml
    python benchmarks/probe_cost.py --config configs/drqv2.yaml --repeats 5 --together-only

Every repeat times one plain update and then one update with each probe, and with all probes of a period together (they
share one forward pass), side by side. A cost is the median of these updates minus the median of the plain ones; a share
is that cost divided by the period and by the plain median. The shares of the periods add up to what all default probes
cost together. Sampling the batch counts as part of an update.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml

import callbacks
from plasticity_rl import DrQV2, Probe, RLDataModule, make_trainer
from plasticity_rl.video import EvalVideo


class Cost(pl.Callback):
    """Measures at the end of a short run, when replay and optimizers are as in training.

    Args:
        probes: Probes, already set up; only this callback calls them.
        repeats: Updates timed with each probe, and without any.
        together_only: Leave out the single probes.
    """

    def __init__(self, probes: list[Probe], repeats: int, together_only: bool) -> None:
        self.probes, self.repeats, self.together_only = probes, repeats, together_only
        self.seconds: dict[str, list[float]] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for probe in self.probes:
            probe.setup(trainer, pl_module, stage)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for probe in self.probes:
            probe.on_fit_start(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, agent: Any) -> None:
        for repeat in range(self.repeats + 1):
            for name, probes in self.cases().items():
                seconds = self.timed_update(agent, probes)
                if repeat > 0:  # the first one warms up
                    self.seconds.setdefault(name, []).append(seconds)

    def cases(self) -> dict[str, list[Probe]]:
        """Return what is timed: nothing, each probe, and all probes of each period."""
        cases: dict[str, list[Probe]] = {"": []}
        if not self.together_only:
            cases |= {probe.name: [probe] for probe in self.probes}
        for period in sorted({probe.every_n_updates for probe in self.probes}):
            due = [probe for probe in self.probes if probe.every_n_updates == period]
            cases[f"all {len(due)} of period {period}"] = due
        return cases

    def timed_update(self, agent: Any, probes: list[Probe]) -> float:
        start = time.perf_counter()
        for probe in probes:
            probe.begin(agent)
        batch = agent.data.replay.sample().to(agent.device)
        metrics = agent.update(batch)
        agent.num_updates += 1
        agent._once_per_update = {}  # what dispatch does: probes that measure at one update share their work
        for probe in probes:
            for value in probe.measure(agent, batch, metrics).values():
                float(value)
        agent._once_per_update = None
        return time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/quickstart.yaml")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--together-only", action="store_true", help="leave out the single probes")
    parser.add_argument("--without", nargs="*", default=[], metavar="PROBE", help="e.g. RandomTargetFit, which is slow")
    parser.add_argument("--accelerator", default="auto")
    options = parser.parse_args(arguments)
    config = yaml.safe_load(Path(options.config).read_text())
    seed_frames = config["model"].get("num_seed_frames", 4000)
    data = RLDataModule(**{**config["data"], "num_eval_episodes": 1, "max_frames": seed_frames + 100, "seed": 1})
    agent = DrQV2(data.obs_shape, data.action_dim, **config["model"])
    classes = [getattr(callbacks, name) for name in callbacks.__all__ if name not in options.without]
    probes = [cls() for cls in classes if issubclass(cls, Probe)]
    cost = Cost(probes, options.repeats, options.together_only)
    with tempfile.TemporaryDirectory() as folder:
        quiet = {"logger": False, "enable_progress_bar": False, "accelerator": options.accelerator}
        given = [cost, EvalVideo(every_n_evals=0)]
        make_trainer(folder, callbacks=given, enable_checkpointing=False, **quiet).fit(agent, data)
    return report(cost)


def report(cost: Cost) -> list[dict[str, Any]]:
    plain = statistics.median(cost.seconds[""])
    print(f"\nplain update: {plain * 1e3:.1f} ms (median of {cost.repeats})")
    print(f"{'probe':24} {'cost, ms':>10} {'period':>8} {'share':>8}")
    total, rows = 0.0, [{"name": "plain update", "ms": plain * 1e3}]
    for name, probes in cost.cases().items():
        if not probes:
            continue
        extra = statistics.median(cost.seconds[name]) - plain
        period = probes[0].every_n_updates
        share = extra / period / plain
        total += share * name.startswith("all ")
        rows.append({"name": name, "ms": extra * 1e3, "period": period, "share": share})
        print(f"{name:24} {extra * 1e3:10.2f} {period:8} {share:8.3%}")
    print(f"{'all of these':24} {'':10} {'':8} {total:8.3%}")
    return [*rows, {"name": "all of these", "share": total}]


if __name__ == "__main__":
    main()
