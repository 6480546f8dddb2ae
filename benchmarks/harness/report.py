"""Tables, ratios, and what stands beside every number: machine, versions, load."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.harness.contest import ROOT

PACKAGES = ("torch", "torchrl", "tensordict", "lightning", "dm_control", "mujoco", "numpy")


def machine() -> dict[str, Any]:
    """Return processor, cores, memory, GPU, versions and revision."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
        model = next(line.split(":")[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory, 1),
        "gpu": _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") or "none",
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},
        "revision": _output("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
    }


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def load_average() -> float:
    """Return the mean number of processes that wanted a core during the last minute: 0 on a machine of our own."""
    return round(os.getloadavg()[0], 2)


def rates(answers: Sequence[Mapping[str, Any]], clock: str = "seconds") -> list[float]:
    """Return units per second of every turn, or per ``cpu_seconds`` of the process (without its loader workers)."""
    return [answer["units"] / answer[clock] for answer in answers]


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, list[float]]:
    """Return the median of the ratios ours / theirs, and the ratio of each round."""
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return statistics.median(ratios), ratios


def rate_rows(
    answers: Mapping[str, Sequence[Mapping[str, Any]]],
    baseline: str | None,
    *,
    better: str = "higher",
    scale: float = 1.0,
) -> list[dict[str, Any]]:
    """Return a row for every lane: median, least and largest rate, and the ratio to the lane ``baseline`` by round.

    Args:
        answers: What ``interleave`` returned.
        baseline: Name of the lane that the others are compared with, if it is there.
        better: ``lower`` turns rates into seconds per unit; ratios stay those of rates.
        scale: Factor of the values shown.
    """
    rows = []
    for name, turns in answers.items():
        rate = rates(turns)
        values = [scale * value if better == "higher" else scale / value for value in rate]
        row = {"name": name, "median": statistics.median(values), "min": min(values), "max": max(values)}
        if baseline in answers and name != baseline:
            row["ratio"], row["ratios"] = median_ratio(rate, rates(answers[baseline]))
            row["cpu_ratio"], _ = median_ratio(rates(turns, "cpu_seconds"), rates(answers[baseline], "cpu_seconds"))
        rows.append(row)
    return rows


def print_rates(
    title: str, unit: str, rows: Sequence[Mapping[str, Any]], baseline: str | None, *, cpu: bool = True
) -> None:
    """Print what :func:`rate_rows` returned.

    Args:
        title: Title.
        unit: Of the values.
        rows: What is shown.
        baseline: Name of the row that the others are compared with.
        cpu: Whether to show the ratio of processor time too; it leaves out loader workers, which are other processes.
    """
    print(f"\n{title}\n")
    compared = (
        f"{'ratio':>6} {'(cpu)' if cpu else '':>8}  by round, of {baseline}" if len(rows) > 1 and baseline else ""
    )
    print(f"{'':34} {unit:>12} {'range':>18}  {compared}")
    for row in rows:
        span = f"{row['min']:.4g} to {row['max']:.4g}"
        line = f"{row['name']:34} {row['median']:12.4g} {span:>18}"
        if "ratio" in row:
            by_round = " ".join(f"{one:.2f}" for one in row["ratios"])
            of_cpu = f"({row['cpu_ratio']:.2f})" if cpu else ""
            line += f"  {row['ratio']:6.2f} {of_cpu:>8}  {by_round}"
        print(line)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table of numbers, the first column a name."""
    print(f"\n{title}\n")
    print(f"{columns[0]:36} " + " ".join(f"{name:>16}" for name in columns[1:]))
    for name, *values in rows:
        shown = (f"{value:16.4g}" if isinstance(value, float) else f"{value!s:>16}" for value in values)
        print(f"{name!s:36} " + " ".join(shown))


def keep(path: Path, results: Mapping[str, Any]) -> None:
    """Write everything to a JSON file."""
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"\nkept in {path}")
