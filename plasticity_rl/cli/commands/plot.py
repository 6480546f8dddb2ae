"""``plasticity-rl plot RUN [RUN ...] --out figure.png``: a figure of finished or running runs."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from plasticity_rl.cli.commands.arguments import OneLineArguments, whole_number
from plasticity_rl.errors import UserError
from plasticity_rl.files.places import expanded
from plasticity_rl.files.writing import drafted, replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from plasticity_rl.results.arms import Arm
    from plasticity_rl.results.panels import Chart
    from plasticity_rl.results.runs import Run

FORMATS = ("png", "svg", "pdf", "html")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = OneLineArguments(
        prog="plasticity-rl plot",
        description="Draw runs against env frames: their return and FAU (fraction of active units, the share of a "
        "module's hidden units that are above zero), or whatever else they logged. Runs that differ in the seed alone "
        "are drawn as one line: interquartile mean, from five seeds on with the band of its 95 % intervals, below "
        "that with a thin line for every seed. Events of interventions are numbers above the panels, with a list "
        "below. Many arms get axes of their own. Curves with NaN or infinity are named and left out; of a single run "
        "the other points are drawn. A run may still be going on.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="run folder, or a folder: every run below it")
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        default=Path("figure.png"),
        help="file: .png, .svg, .pdf or .html (default: %(default)s)",
    )
    parser.add_argument(
        "--tags",
        nargs="+",
        metavar="TAG",
        default=[],
        help="what to draw, a panel each, e.g. eval/return 'dormant/*/tau_0.1'; * is any text (default: eval/return "
        "and the FAU of every module)",
    )
    parser.add_argument(
        "--labels",
        nargs="+",
        metavar="LABEL",
        help="names of the arms in the order of the legend, in place of interventions and options that differ",
    )
    parser.add_argument("--title", metavar="TEXT", help="above the figure; '' for none (default: the task)")
    parser.add_argument(
        "--smooth",
        metavar="FRAMES",
        type=whole_number(1),
        default=0,
        help="centred moving average of so many env frames: each point is the mean of all at most half as far away, in "
        "each run, before seeds are brought together (default: none)",
    )
    parser.add_argument(
        "--arms",
        choices=("auto", "together", "apart"),
        default="auto",
        help="all arms in common axes, or axes for each (default: %(default)s, apart where one would cover another)",
    )
    parser.add_argument(
        "--max_points",
        metavar="N",
        type=whole_number(2),
        default=100,
        help="most points of a line; longer curves are averaged in as many bins (default: %(default)s)",
    )
    return parser


def run(args: Sequence[str]) -> None:
    """Parse ``args`` (without the subcommand), and write the figure.

    Raises:
        UserError: When the input is wrong or matplotlib is missing.
    """
    options = parser().parse_args(args)
    options.out = expanded(options.out, "--out")
    if options.out.suffix[1:] not in FORMATS:
        raise UserError(f"--out {options.out}: the file must end in one of {', '.join('.' + name for name in FORMATS)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("plot needs matplotlib, which is not installed: pip install 'plasticity-rl[plot]'")
    from plasticity_rl.results.finding import find_runs
    from plasticity_rl.results.plots import draw

    runs, notes = find_runs(options.runs)
    arms, chart = chart_of_runs(runs, options)
    save(draw(chart), chart, options.out)
    for arm in arms:
        print(f"{arm.task}: {arm.label}, seeds {', '.join(str(run.seed) for run in arm.runs)}")
    for line in [*notes, *chart.notes]:
        print(f"note: {line}")
    print(f"Figure: {options.out}")


def chart_of_runs(runs: Sequence[Run], options: argparse.Namespace) -> tuple[list[Arm], Chart]:
    """Return the arms of runs, and what is drawn of them with the options of the command line."""
    from plasticity_rl.results.arms import arms_of
    from plasticity_rl.results.charts import chart_of
    from plasticity_rl.results.labels import chosen_labels
    from plasticity_rl.results.tags import matching_tags

    arms = arms_of(runs)
    if options.labels is not None:
        names = chosen_labels(list(dict.fromkeys(arm.label for arm in arms)), options.labels)
        arms = [replace(arm, label=names[arm.label]) for arm in arms]
    chart = chart_of(
        arms,
        tags=matching_tags(options.tags, runs),
        title=options.title,
        smooth_frames=options.smooth,
        max_points=options.max_points,
        apart={"auto": None, "together": False, "apart": True}[options.arms],
    )
    return arms, chart


def save(figure: Figure, chart: Chart, path: Path) -> None:
    """Write a figure in the format that ``path`` ends in; a page in HTML has the curves of ``chart``.

    Raises:
        UserError: When the file cannot be written.
    """
    from plasticity_rl.results.plots import write
    from plasticity_rl.results.run_page import page_of

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".html":
            replace_file(path, page_of(chart, figure))
        else:
            with drafted(path) as draft:
                write(figure, draft, path.suffix[1:])
    except OSError as error:
        raise UserError(f"--out {path} cannot be written ({error.strerror})") from error
