"""What each intervention adds to an update: processor time of ``plasticity-rl fit`` with it and without, in turns.

Every intervention is there as its file in ``configs/interventions/`` has it. One that acts from time to time is there
twice: between its events, and with an event at every update. A few runs are there at a time, each group with a run
without intervention of its own. Some do nothing between their events: what these seem to add is the error of the rest.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

import callbacks
from benchmarks.contestants.ours import blank, fit_command
from benchmarks.harness.contest import ROOT, Contestants, Lane, interleave
from benchmarks.harness.options import Options
from benchmarks.harness.report import print_table
from plasticity_rl import Intervention

PLAIN, AGAIN = "no intervention", "no intervention, again"
"""The run that the others of its group are compared with, and one that is equal to it."""
ENV_STEPS_PER_UPDATE, FRAMES_PER_ENV_STEP = 2, 2
FRAMES_PER_UPDATE = FRAMES_PER_ENV_STEP * ENV_STEPS_PER_UPDATE
LEFT_OUT = {
    "AdaptiveReplayRatio": "changes how many updates there are",
    "ReplayRatioSchedule": "changes how many updates there are",
    "ContinualTasks": "changes the task",
    "HeavyPriming": "adds updates, all before the first of the run",
    "WarmStartReplay": "reads another run before the first update",
    "FrozenEncoder": "needs weights; RandomFrozenEncoder computes the same",
}
"""Interventions without a cost per update, and why."""
EQUAL = (
    "DASH",
    "DormantRatioPerturbation",
    "OptimizerReset",
    "PruneDormant",
    "ReDo",
    "ReGraMa",
    "Reset",
    "ShrinkAndPerturb",
)
"""Interventions that do nothing between their events."""
HAS_ACTED: dict[str, dict[str, Any]] = {
    "PlasticityInjection": {"at_frames": [0]},
    "ToggleAugmentation": {"at_frame": 0},
    "GradualPruning": {"start_frame": 0, "end_frame": 0},
}
"""Arguments with which an intervention that acts late has acted before the first measured update."""
SEED_FRAMES = {"full": 1024, "tiny": 40}
"""So few that a run is soon at its first update, and enough for a batch."""
AT_ONCE = 4
"""Runs that are there at the same time, beside the one without intervention; at full size a run takes 1.5 GB."""


def interventions() -> list[str]:
    """Return the names of all that are measured."""
    kinds = ((name, getattr(callbacks, name)) for name in callbacks.__all__)
    return [name for name, kind in kinds if issubclass(kind, Intervention) and name not in LEFT_OUT]


def settings(name: str) -> list[dict[str, Any]]:
    """Return the callbacks of the file of an intervention, those that act late as they are once they have acted.

    Of several files it is the first that has nothing else.
    """
    found = []
    for path in sorted((ROOT / "configs" / "interventions").glob("*.yaml")):
        entries = yaml.safe_load(path.read_text())["trainer"]["callbacks+"]
        own = [entry for entry in entries if entry["class_path"] == f"callbacks.{name}"]
        found += [(len(entries) - len(own), own)] if own else []
    if not found:
        raise ValueError(f"{name}: no file in configs/interventions has it")
    _, entries = min(found, key=lambda one: one[0])
    late = HAS_ACTED.get(name, {})
    return [{**entry, "init_args": {**entry.get("init_args", {}), **late}} for entry in entries]


def period(name: str) -> tuple[str, float] | None:
    """Return the argument with the period of an intervention and that many updates, None for one without."""
    arguments = settings(name)[0]["init_args"]
    for argument, per_update in (("every_n_updates", 1), ("every_n_frames", FRAMES_PER_UPDATE)):
        if arguments.get(argument):
            return argument, arguments[argument] / per_update
    return None


def with_events(name: str) -> list[dict[str, Any]]:
    """Return the callbacks of an intervention with a period, with an event at every update."""
    argument, _ = period(name) or ("", 0)
    every = {"every_n_updates": 1, "every_n_frames": FRAMES_PER_UPDATE}[argument]
    return [{**entry, "init_args": {**entry["init_args"], argument: every}} for entry in settings(name)]


def run(options: Options) -> dict[str, Any]:
    """Measure and print; return what is kept."""
    names = options.only or interventions()
    updates = options.units or (3 if options.size == "full" else 20)
    lanes = [(AGAIN, [], updates), *((name, settings(name), updates) for name in names)]
    lanes += [(f"{name}, events", with_events(name), 1) for name in names if period(name)]
    answers: dict[str, list[Mapping[str, Any]]] = {}
    plain: dict[str, list[Mapping[str, Any]]] = {}
    failed: dict[str, str] = {}
    medians_ms, shared = [], {}
    for few in (lanes[start : start + AT_ONCE] for start in range(0, len(lanes), AT_ONCE)):
        with Contestants() as group:
            base = group.start(PLAIN, _command(options, []), shared)
            if base is None:
                raise SystemExit("error: nothing to measure: the run without intervention did not start (see above)")
            shared = shared or base.ready["settings"]
            there = [Lane(PLAIN, base, {"n": ENV_STEPS_PER_UPDATE * updates})]
            for name, what, count in few:
                if one := group.start(name, _command(options, what), shared):
                    there.append(Lane(name, one, {"n": ENV_STEPS_PER_UPDATE * count}))
            found = interleave(there, options.repeats)
            failed |= group.failed
        medians_ms.append(statistics.median(_ms_per_update(found[PLAIN])))
        answers |= {name: turns for name, turns in found.items() if name != PLAIN}
        plain |= dict.fromkeys(found, found[PLAIN])
    plain_ms = statistics.median(medians_ms)
    rows = list(_rows([AGAIN, *names], plain, answers))
    error = error_of(rows)
    print_table(
        f"callbacks: processor time per update, {options.size} size; {plain_ms:.1f} ms without (+- {error:.1f} %)",
        ("intervention", "added, ms", "added, %", "an event, ms", "period, updates"),
        [(row["name"], *(_shown(row[key]) for key in ("ms", "percent", "event_ms", "period_updates"))) for row in rows],
    )
    what = {"size": options.size, "plain_ms": plain_ms, "plain_medians_ms": medians_ms, "error_percent": error}
    return {**what, "rows": rows, "left_out": LEFT_OUT, "failed": failed}


def error_of(rows: Sequence[Mapping[str, Any]]) -> float:
    """Return what 95 of 100 equal runs seem to add at most, in percent, as those rows say that should add nothing."""
    equal = [row["percent"] for row in rows if row["name"] in (AGAIN, *EQUAL)]
    return 1.96 * math.sqrt(statistics.fmean(percent**2 for percent in equal)) if equal else math.nan


def _command(options: Options, entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the command of a run with these callbacks."""
    folder = options.new_folder()
    file = Path(f"{folder}.yaml")
    file.write_text(yaml.safe_dump({"trainer": {"callbacks+": list(entries)}}))
    quick = ["--data.task=blank_50", f"--model.num_seed_frames={SEED_FRAMES[options.size]}"]
    fixed = [f"--model.replay_ratio={1 / ENV_STEPS_PER_UPDATE}", f"--trainer.accelerator={options.accelerator}"]
    return fit_command("TimedTraining", options.size, folder, *blank(), *quick, *fixed, "--config", str(file))


def _ms_per_update(turns: Sequence[Mapping[str, Any]]) -> list[float]:
    return [1e3 * turn["cpu_seconds"] / turn["num_updates"] for turn in turns]


def _rows(
    names: Sequence[str],
    plain: Mapping[str, Sequence[Mapping[str, Any]]],
    answers: Mapping[str, Sequence[Mapping[str, Any]]],
) -> Iterator[dict[str, Any]]:
    """Yield a row for each intervention that was measured; differences are medians of those of the rounds."""

    def added_ms(lane: str) -> list[float]:
        pairs = zip(_ms_per_update(answers[lane]), _ms_per_update(plain[lane]), strict=True)
        return [one - other for one, other in pairs]

    for name in names:
        if name not in answers:
            continue
        by_round, events = added_ms(name), f"{name}, events"
        ms, every = statistics.median(by_round), period(name) if events in answers else None
        yield {
            "name": name,
            "num_updates": sum(turn["num_updates"] for turn in answers[name]),
            "ms": ms,
            "ms_by_round": [round(one, 3) for one in by_round],
            "percent": 100 * ms / statistics.median(_ms_per_update(plain[name])),
            "event_ms": statistics.median(added_ms(events)) - ms if every else None,
            "period_updates": every[1] if every else None,
        }


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
