"""What the probes cost, as a share of the update time at their default periods.

    python benchmarks/probe_cost.py                                  # the size of configs/quickstart.yaml
    python benchmarks/probe_cost.py --config configs/drqv2.yaml --repeats 5

Every repeat times one plain update and then, for each probe, one update that the probe measures, side by side. The
cost of a probe is the median of its updates minus the median of the plain ones; its share is that cost divided by its
default period and by the plain median. Sampling the batch counts as part of an update.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
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
    """

    def __init__(self, probes: list[Probe], repeats: int) -> None:
        self.probes, self.repeats = probes, repeats
        self.seconds: dict[str, list[float]] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for probe in self.probes:
            probe.setup(trainer, pl_module, stage)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for probe in self.probes:
            probe.on_fit_start(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, agent: Any) -> None:
        shared = [probe for probe in self.probes if probe.name != "random_target_fit"]
        for repeat in range(self.repeats + 1):
            for name, probes in [("", []), *((p.name, [p]) for p in self.probes), ("all together", shared)]:
                seconds = self.timed_update(agent, probes)
                if repeat > 0:  # the first one warms up
                    self.seconds.setdefault(name, []).append(seconds)

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/quickstart.yaml")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--accelerator", default="auto")
    options = parser.parse_args()
    config = yaml.safe_load(Path(options.config).read_text())
    seed_frames = config["model"].get("num_seed_frames", 4000)
    data = RLDataModule(**{**config["data"], "num_eval_episodes": 1, "max_frames": seed_frames + 100, "seed": 1})
    agent = DrQV2(data.obs_shape, data.action_dim, **config["model"])
    classes = [getattr(callbacks, name) for name in callbacks.__all__]
    cost = Cost([cls() for cls in classes if issubclass(cls, Probe)], options.repeats)
    with tempfile.TemporaryDirectory() as folder:
        quiet = {"logger": False, "enable_progress_bar": False, "accelerator": options.accelerator}
        given = [cost, EvalVideo(every_n_evals=0)]
        make_trainer(folder, callbacks=given, enable_checkpointing=False, **quiet).fit(agent, data)
    report(cost)


def report(cost: Cost) -> None:
    plain = statistics.median(cost.seconds.pop(""))
    print(f"\nplain update: {plain * 1e3:.1f} ms (median of {cost.repeats})")
    print(f"{'probe':24} {'cost, ms':>10} {'period':>8} {'share':>8}")
    periods = {probe.name: probe.every_n_updates for probe in cost.probes}
    total = 0.0
    for name, seconds in cost.seconds.items():
        extra = statistics.median(seconds) - plain
        if name == "all together":
            print(f"{name:24} {extra * 1e3:10.2f} {'':8}          (at one update, without random_target_fit)")
            continue
        share = extra / periods[name] / plain
        total += share
        print(f"{name:24} {extra * 1e3:10.2f} {periods[name]:8} {share:8.3%}")
    print(f"{'sum of the shares':24} {'':10} {'':8} {total:8.3%}")


if __name__ == "__main__":
    main()
