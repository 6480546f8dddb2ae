"""What each intervention adds to an update: processor time of ``plasticity-rl fit`` with it and without, in turns.

Every intervention is there as its file in ``configs/interventions/`` has it. One that acts from time to time is there
twice: between its events, and with an event at every update.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

import callbacks
from benchmarks.contestants.ours import QUICK, blank, fit_command
from benchmarks.harness.contest import ROOT, Contestants, Lane, interleave
from benchmarks.harness.options import Options
from benchmarks.harness.report import print_table
from plasticity_rl import Intervention

PLAIN, AGAIN = "no intervention", "no intervention, again"
"""The run that all others are compared with, and an equal one: what it adds is the error of a measurement."""
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
HAS_ACTED: dict[str, dict[str, Any]] = {
    "PlasticityInjection": {"at_frames": [0]},
    "ToggleAugmentation": {"at_frame": 0},
    "GradualPruning": {"start_frame": 0, "end_frame": 0},
}
"""Arguments with which an intervention that acts late has acted before the first measured update."""
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
    lanes = [(AGAIN, []), *((name, settings(name)) for name in names)]
    lanes += [(f"{name}, events", with_events(name)) for name in names if period(name)]
    turn = {"n": ENV_STEPS_PER_UPDATE * (options.units or (3 if options.size == "full" else 20))}
    answers: dict[str, list[Mapping[str, Any]]] = {}
    plain: dict[str, list[Mapping[str, Any]]] = {}
    failed: dict[str, str] = {}
    with Contestants() as first:
        base = first.start(PLAIN, _command(options, []))
        if base is None:
            raise SystemExit("error: nothing to measure: the run without intervention did not start (see above)")
        shared = base.ready["settings"]
        for few in (lanes[start : start + AT_ONCE] for start in range(0, len(lanes), AT_ONCE)):
            with Contestants() as group:
                started = {name: group.start(name, _command(options, what), shared) for name, what in few}
                there = [Lane(name, one, turn) for name, one in started.items() if one]
                found = interleave([Lane(PLAIN, base, turn), *there], options.repeats)
                failed |= group.failed
            for lane in there:
                plain[lane.name], answers[lane.name] = found[PLAIN], found[lane.name]
    rows = list(_rows([AGAIN, *names], plain, answers))
    plain_ms = statistics.median(1e3 * ms for turns in plain.values() for ms in _per_update(turns))
    print_table(
        f"callbacks: processor time per update, {options.size} size; {plain_ms:.1f} ms without",
        ("intervention", "added, ms", "added, %", "an event, ms", "period, updates"),
        [(row["name"], *(_shown(row[key]) for key in ("ms", "percent", "event_ms", "period_updates"))) for row in rows],
    )
    return {"rows": rows, "plain_ms": plain_ms, "left_out": LEFT_OUT, "answers": answers, "failed": failed}


def _command(options: Options, entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the command of a run with these callbacks."""
    folder = options.new_folder()
    file = Path(f"{folder}.yaml")
    file.write_text(yaml.safe_dump({"trainer": {"callbacks+": list(entries)}}))
    quick = QUICK if options.size == "tiny" else []
    fixed = [f"--model.replay_ratio={1 / ENV_STEPS_PER_UPDATE}", f"--trainer.accelerator={options.accelerator}"]
    return fit_command("TimedTraining", options.size, folder, *blank(), *quick, *fixed, "--config", str(file))


def _per_update(turns: Sequence[Mapping[str, Any]]) -> list[float]:
    return [turn["cpu_seconds"] / turn["num_updates"] for turn in turns]


def _added_ms(plain: Sequence[Mapping[str, Any]], turns: Sequence[Mapping[str, Any]]) -> float:
    """Return the median of the differences of the rounds, in milliseconds per update."""
    pairs = zip(_per_update(turns), _per_update(plain), strict=True)
    return 1e3 * statistics.median(one - other for one, other in pairs)


def _rows(
    names: Sequence[str],
    plain: Mapping[str, Sequence[Mapping[str, Any]]],
    answers: Mapping[str, Sequence[Mapping[str, Any]]],
) -> Iterator[dict[str, Any]]:
    """Yield a row for each intervention that was measured."""
    for name in names:
        if name not in answers:
            continue
        before = 1e3 * statistics.median(_per_update(plain[name]))
        ms, events = _added_ms(plain[name], answers[name]), f"{name}, events"
        event = _added_ms(plain[events], answers[events]) if events in answers else None
        every = period(name) if event is not None else None
        period_updates = every[1] if every else None
        yield {
            "name": name,
            "ms": ms,
            "percent": 100 * ms / before,
            "event_ms": event,
            "period_updates": period_updates,
        }


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
