"""``plasticity-rl probe CHECKPOINT``: measure the networks of a checkpoint, or compare two."""

from __future__ import annotations

import argparse
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plasticity_rl.cli.commands.arguments import OneLineArguments, whole_number
from plasticity_rl.cli.commands.json_files import json_file, write_json
from plasticity_rl.errors import UserError
from plasticity_rl.files.places import expanded

if TYPE_CHECKING:
    from plasticity_rl.cli.offline import Measurement


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = OneLineArguments(
        prog="plasticity-rl probe",
        description="Measure a checkpoint with the probes of training, on a batch of the run's replay, or of new "
        "rollouts where the replay is gone. Prints a table by module; probes that the run had are measured with the "
        "run's arguments.",
    )
    parser.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT", help="RUN/checkpoints/last.ckpt")
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"), help="two checkpoints: prints A, B and B - A")
    parser.add_argument(
        "--probes",
        nargs="+",
        metavar="NAME",
        help="class names in callbacks, e.g. SRank DormantUnits (a wrong name lists them); default: all",
    )
    parser.add_argument(
        "--modules",
        nargs="+",
        metavar="NAME",
        help="modules by dotted name, e.g. actor critic.Q1 (a wrong name lists them); default: those of the run's "
        "probes, and all that the agent has for the others",
    )
    parser.add_argument("--layers", action="store_true", help="print every layer too, not only whole modules")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything, layers included, as JSON")
    parser.add_argument(
        "--rollout_frames",
        type=whole_number(1),
        default=2000,
        help="env frames to collect where there is no replay (default: %(default)s)",
        metavar="FRAMES",
    )
    parser.add_argument("--trust", action="store_true", help="build classes of any package that the run names")
    return parser


def parse(args: Sequence[str]) -> argparse.Namespace:
    """Parse ``args`` (without the subcommand); ``checkpoints`` of what is returned are one or two.

    Raises:
        UserError: When the input is wrong.
    """
    options = parser().parse_args(args)
    if (options.checkpoint is None) == (options.compare is None):
        raise UserError("give one CHECKPOINT, or two after --compare; see plasticity-rl probe --help")
    options.checkpoints = [expanded(path, "probe") for path in options.compare or [options.checkpoint]]
    return options


def run(args: Sequence[str]) -> None:
    """Parse ``args`` (without the subcommand), measure, and print.

    Raises:
        UserError: When the input is wrong.
    """
    options = parse(args)
    if options.json is not None:
        options.json = json_file(options.json)
    from plasticity_rl.cli.offline import measure_checkpoint

    found = [
        measure_checkpoint(
            path,
            options.probes,
            modules=options.modules,
            rollout_frames=options.rollout_frames,
            trusts=options.trust,
        )
        for path in options.checkpoints
    ]
    for name, measurement in zip("AB" if options.compare else [""], found, strict=True):
        print(heading(measurement, name))
    print()
    columns = {name: one.scalars for name, one in zip("AB", found, strict=False)}
    if options.compare:
        columns["B - A"] = differences(found[0].scalars, found[1].scalars)
    modules: dict[str, list[str]] = {}
    for one in found:
        for module, layers in one.layers.items():
            modules.setdefault(module, []).extend(layers)
    print(table(columns, modules, layers=options.layers, titles=bool(options.compare)))
    if options.json is not None:
        write_json(options.json, as_json(found, columns))


def heading(found: Measurement, name: str) -> str:
    """Return what was measured, on what, and what was left out."""
    source = "its replay" if found.batch == "replay" else f"new rollouts ({found.reason})"
    lines = [
        f"{name + ': ' if name else ''}{found.checkpoint}",
        f"  {found.task}, frame {found.env_frames:,}, {found.num_updates:,} updates; batch from {source}",
    ]
    lines += [f"  {probe} left out: {reason}" for probe, reason in found.skipped.items()]
    return "\n".join(lines)


def differences(one: Mapping[str, float], two: Mapping[str, float]) -> dict[str, float]:
    """Return the second minus the first, for what both have."""
    return {tag: two[tag] - one[tag] for tag in one if tag in two}


def split_tag(tag: str, modules: Mapping[str, Collection[str]]) -> tuple[str, str, bool]:
    """Return the module of a tag (or ""), the rest of the tag, and whether it is of a layer.

    ``rank/srank/critic.Q1`` gives ``("critic", "rank/srank/Q1", False)``.

    Args:
        tag: A tag of training.
        modules: Dotted names of all submodules by top-level module.
    """
    parts = tag.split("/")
    for index, part in enumerate(parts):
        top, _, sub = part.partition(".")
        if index and top in modules:
            after = parts[index + 1 :]
            layer = bool(after) and ".".join(filter(None, [sub, after[0]])) in modules[top]
            return top, "/".join([*parts[:index], *([sub] if sub else []), *after]), layer
    return "", tag, False


def table(
    columns: Mapping[str, Mapping[str, float]], modules: Mapping[str, Collection[str]], *, layers: bool, titles: bool
) -> str:
    """Return the values as an aligned table, grouped by module.

    Args:
        columns: Scalars by tag, by title.
        modules: As of :func:`split_tag`, in the order of the groups.
        layers: Whether to show the values of single layers.
        titles: Whether to write the titles above the columns.
    """
    groups: dict[str, list[list[str]]] = {module: [] for module in (*modules, "")}
    for tag in sorted({tag for column in columns.values() for tag in column}):
        module, rest, layer = split_tag(tag, modules)
        if layers or not layer:
            groups[module].append([rest, *(show(column.get(tag)) for column in columns.values())])
    rows = [row for group in groups.values() for row in group]
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(len(columns) + 1)]
    widths = [widths[0], *(max(width, len(title)) for width, title in zip(widths[1:], columns, strict=True))]
    lines: list[str] = []
    for module, group in groups.items():
        if group:
            heads = [title.rjust(w) for title, w in zip(columns, widths[1:], strict=True)] if titles else []
            lines.append("  ".join([(module or "agent").ljust(widths[0] + 2), *heads]).rstrip())
            lines += ["  " + "  ".join([r[0].ljust(widths[0]), *map(str.rjust, r[1:], widths[1:])]) for r in group]
            lines.append("")
    return "\n".join(lines[:-1])


def show(value: float | None) -> str:
    """Write a number with four digits, or a dash for none."""
    return "-" if value is None else f"{value:.4g}"


def as_json(found: Sequence[Measurement], columns: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Return one measurement, or two with their difference, as JSON can say it: NaN is null."""

    def values(scalars: Mapping[str, float]) -> dict[str, float | None]:
        return {tag: value if math.isfinite(value) else None for tag, value in scalars.items()}

    kept = [{key: value for key, value in vars(one).items() if key != "layers"} for one in found]
    plain = [
        {**entry, "modules": list(one.layers), "scalars": values(one.scalars)}
        for entry, one in zip(kept, found, strict=True)
    ]
    if len(plain) == 1:
        return plain[0]
    return {"A": plain[0], "B": plain[1], "difference": values(columns["B - A"])}
