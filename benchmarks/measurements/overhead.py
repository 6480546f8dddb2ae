"""What the framework costs: ``plasticity-rl fit`` with its default callbacks against the same in plain torch.

The environment costs nothing here (frames of noise), so that nothing hides the framework. With a network that has
almost nothing to compute the difference is the tax in milliseconds; at full size it is a share of the update.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.contestants import reference
from benchmarks.contestants.ours import QUICK, blank, fit_command
from benchmarks.contestants.reference import revision
from benchmarks.harness.child import command
from benchmarks.harness.contest import ROOT, Contestant, Contestants, Lane, interleave
from benchmarks.harness.options import Options
from benchmarks.harness.report import median_ratio, print_rates, print_table, rate_rows, rates

DIMENSIONS = {
    "full": {"image_size": 84, "batch_size": 256, "hidden_dim": 1024, "num_channels": 32},
    "tiny": {"image_size": 16, "batch_size": 8, "hidden_dim": 8, "num_channels": 1},
}
REPLAY_RATIO = 0.5
BARE, BARE_LOOP, FIT, PARTS = "plain torch", "plain loop, DrQV2.update", "fit", "fit, parts timed"
WITH_OPTIONS = {
    "fit, 50 env steps per tick": ["--data.env_steps_per_tick=50"],
    "fit, 16 environments": ["--data.num_envs=16"],
}
FRAMES = {"full": 19_200, "tiny": 1_000_000, "quick": 19_200}
"""Env frames of a run, and between its evaluations: a multiple of what ticks of these rows take (100 and 32)."""
LIBRARIES, STOCK = "libraries alone, no update", "libraries alone, no network"
INSIDE_STEP = ("collector", "replay write", "dispatch", "replay sample", "update", "logging")


def run(options: Options) -> dict[str, Any]:
    """Measure and print; return what is kept."""
    sizes = {"tiny": options.units or 400} if options.size == "tiny" else {"tiny": 2000, "full": options.units or 20}
    return {size: _measure(options, size, n) for size, n in sizes.items()}


def _measure(options: Options, size: str, n: int) -> dict[str, Any]:
    with Contestants() as group:
        started = _start(options, size, group)
        names = (BARE, BARE_LOOP, *(name for name, *_ in _fits(options)), LIBRARIES, STOCK)
        lanes = [Lane(name, started[name], {"n": n}) for name in names if name in started]
        ready = {lane.name: lane.contestant.ready for lane in lanes}
        answers = interleave(lanes, options.repeats)
        failed = group.failed
    for turns in answers.values():
        for turn in turns:
            turn["env_steps"], turn["units"] = turn["units"], turn["num_updates"]
    return {**_report(options, size, answers), "answers": answers, "contestants": ready, "failed": failed}


def _start(options: Options, size: str, group: Contestants) -> dict[str, Contestant]:
    """Start every row, and return those that did start by name.

    All have the settings of the first of ours, and as many threads: an older commit may choose others for itself.
    """
    started: dict[str, Contestant] = {}
    settings: dict[str, str] = {}
    threads = options.threads
    for name, extra, root in _fits(options):
        fit = fit_command(
            "TimedTraining", size, options.new_folder(), *_options_of_fit(options, size, root), *extra, root=root
        )
        if contestant := group.start(name, fit, settings, root):
            started[name] = contestant
            settings = settings or contestant.ready["settings"]
            threads = contestant.ready["torch_threads"] if name == FIT else threads
    shared = {"replay_ratio": REPLAY_RATIO, "threads": threads}
    bare = {"size": DIMENSIONS[size], **shared, "device": reference.choose_device(options.device)}
    commands = {
        BARE: command("contestants.bare_loop:training", **bare, own_update=False),
        BARE_LOOP: command("contestants.bare_loop:training", **bare, own_update=True),
    }
    if size == "tiny":
        alone = {"image_size": DIMENSIONS[size]["image_size"], **shared}
        for name in (LIBRARIES, STOCK):
            commands[name] = command("contestants.libraries_alone:training", **alone, stock=name == STOCK)
    for name, other in commands.items():
        if contestant := group.start(name, other, settings):
            started[name] = contestant
    return started


def _options_of_fit(options: Options, size: str, root: Path) -> list[str]:
    """Return the options that all rows of ``plasticity-rl fit`` have."""
    quick = options.size == "tiny"
    frames = FRAMES["quick" if quick else size]
    length = [f"--data.eval_every_n_frames={frames}", f"--max_frames={frames}", *(QUICK if quick else [])]
    fixed = [f"--model.replay_ratio={REPLAY_RATIO}", f"--trainer.accelerator={options.accelerator}"]
    return [*blank(root), *length, *fixed]


def _report(options: Options, size: str, answers: Mapping[str, Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """Print what was measured, and return what is made of it."""
    rows = rate_rows(answers, BARE, better="lower", scale=1e3)
    title = f"overhead: ms per update with {1 / REPLAY_RATIO:.0f} env steps each, {size} size"
    print_rates(title, "ms/update", rows, BARE)
    found: dict[str, Any] = {"rows": rows}
    if FIT in answers and BARE in answers:
        found |= _tax(answers[FIT], answers[BARE])
        found["tax_share"] = 1 / median_ratio(rates(answers[FIT]), rates(answers[BARE]))[0] - 1
        print(f"\nthe framework costs {found['tax_ms']:.3f} ms per update, {found['tax_share']:.1%} (medians)")
        print(f"of processor time, which is steadier on a busy machine: {found['tax_cpu_ms']:.3f} ms")
    fits = [name for name, *_ in _fits(options) if name != PARTS]
    found["taxes"] = _taxes(answers, fits) if BARE in answers else {}
    for name, key, what in (
        (LIBRARIES, "libraries_ms", "an empty Lightning loop and TorchRL's env.step alone"),
        (STOCK, "stock_ms", "with TorchRL's collector and replay, Lightning's backward and steps, no network"),
    ):
        if name in answers:
            found[key] = 1e3 * statistics.median(turn["seconds"] / turn["units"] for turn in answers[name])
            print(f"{what}: {found[key]:.3f} ms")
    if PARTS in answers:
        found["parts"] = _parts(answers[PARTS])
        print_table(f"overhead: where the time of an update goes, {size} size", ("part", "ms/update", "share"), [
            (name, value, f"{value / found['parts']['all']:.1%}") for name, value in found["parts"].items()
        ])  # fmt: skip
    return found


def _fits(options: Options) -> list[tuple[str, list[str], Path]]:
    """Return name, options and worktree of every row of ``plasticity-rl fit``."""
    ours = {FIT: [], PARTS: ["--trainer.callbacks.breakdown=true"], **WITH_OPTIONS}
    others = [(f"fit, {revision(str(path))}", [], path) for path in options.against]
    return [*((name, extra, ROOT) for name, extra in ours.items()), *others]


def _taxes(answers: Mapping[str, Sequence[dict[str, Any]]], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Print and return what each row costs beside plain torch, and its share of what the default costs elsewhere."""
    taxes = {name: _tax(answers[name], answers[BARE]) for name in names if name in answers}
    base = next((name for name in reversed(names) if name in taxes and name not in (FIT, *WITH_OPTIONS)), FIT)
    for tax in taxes.values():
        tax["of_base"] = tax["tax_ms"] / taxes[base]["tax_ms"] if base in taxes else math.nan
        tax["cpu_of_base"] = tax["tax_cpu_ms"] / taxes[base]["tax_cpu_ms"] if base in taxes else math.nan
    print_table(
        f"overhead: cost per update beside plain torch, and as a share of that of {base}",
        ("row", "ms", "share", "processor ms", "share"),
        [
            (name, t["tax_ms"], f"{t['of_base']:.2f}", t["tax_cpu_ms"], f"{t['cpu_of_base']:.2f}")
            for name, t in taxes.items()
        ],
    )
    return taxes


def _tax(ours: Sequence[dict[str, Any]], bare: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the medians of what an update costs more, in milliseconds of wall clock and of processor time."""

    def median_ms(clock: str) -> float:
        rounds = zip(ours, bare, strict=True)
        return statistics.median(1e3 * (a[clock] / a["units"] - b[clock] / b["units"]) for a, b in rounds)

    return {"tax_ms": median_ms("seconds"), "tax_cpu_ms": median_ms("cpu_seconds")}


def _parts(turns: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return milliseconds per update by part, means over all rounds, so that they add up."""
    updates = sum(turn["units"] for turn in turns)

    def mean_ms(part: str) -> float:
        return 1e3 * sum(turn["parts"].get(part, 0.0) for turn in turns) / updates

    parts = {name: mean_ms(name) for name in INSIDE_STEP}
    acting, inside = mean_ms("acting"), mean_ms("training_step")
    everything = 1e3 * sum(turn["seconds"] for turn in turns) / updates
    rest = inside - sum(parts.values())
    return {
        "acting (policy)": acting,
        "collector, blank environment": parts.pop("collector") - acting,
        **parts,
        "rest of training_step": rest,
        "Lightning and other callbacks": everything - inside,
        "all": everything,
    }
