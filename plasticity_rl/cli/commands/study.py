"""``plasticity-rl study``: run all arms, tasks and seeds of a factorial study, and report what came out."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plasticity_rl.cli.commands.arguments import OneLineArguments, share, whole_number
from plasticity_rl.cli.own_files import in_study
from plasticity_rl.cli.study_configs import StudyConfigs
from plasticity_rl.errors import RunFailure, UserError
from plasticity_rl.files import own_files
from plasticity_rl.files.places import expanded
from plasticity_rl.files.writing import drafted, replace_file
from plasticity_rl.machine.health import available_cores
from plasticity_rl.study.aside import move_aside
from plasticity_rl.study.extends import files_of, write_resolved
from plasticity_rl.study.lock import at_work
from plasticity_rl.study.progress import LiveTable
from plasticity_rl.study.runner import Launch, Runner
from plasticity_rl.study.spec import Study, command, count_states, go_on, read_study, state_of
from plasticity_rl.study.stale import Provenance, provenance_of

if TYPE_CHECKING:
    from plasticity_rl.study.report import Report


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = OneLineArguments(
        prog="plasticity-rl study",
        description="A study: every combination of the levels of its factors, on every task, with every seed. "
        "run skips what is finished, and goes on with what was stopped or killed from its last checkpoint. "
        "A study file may be another one plus what is different: extends: OTHER.yaml (relative to the file, or one "
        "of list studies). Levels of factors are merged by name, other entries are replaced, null takes one out.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    run = actions.add_parser("run", help="run what is not finished", prog="plasticity-rl study run")
    run.add_argument("study", type=Path, metavar="STUDY.yaml", help="a file, or one of list studies")
    run.add_argument("--workers", type=whole_number(1), help="runs at a time (default: 1; on a cluster, what it holds)")
    run.add_argument(
        "--rerun_stale",
        "--rerun-stale",
        action="store_true",
        help="move runs aside that were made with other options than the study has now, and run them anew",
    )
    run.add_argument("--dry-run", action="store_true", help="print the command of every run, and run nothing")
    cluster = run.add_argument_group("on a Ray cluster, which needs the extra [cluster]")
    cluster.add_argument("--ray-address", metavar="ADDRESS", help="e.g. auto, or local for one on this machine")
    cluster.add_argument("--cpus-per-run", type=share(1), metavar="N", help="CPUs that a run holds (default: 1)")
    cluster.add_argument("--gpus-per-run", type=share(0), metavar="N", help="0.25: four runs on a GPU (default: 0)")
    status = actions.add_parser("status", help="print which runs are finished", prog="plasticity-rl study status")
    status.add_argument("study", type=Path, metavar="STUDY.yaml")
    report = actions.add_parser("report", help="write what came out", prog="plasticity-rl study report")
    report.add_argument("study", type=Path, metavar="STUDY.yaml")
    report.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for report.md, report.tex, index.html and figures",
    )
    return parser


def run(args: Sequence[str]) -> None:
    """Parse ``args`` (without the subcommand) and do it.

    Raises:
        UserError: When the study cannot be run as it is written.
        RunFailure: When runs of it failed; the others were run all the same.
    """
    options = parser().parse_args(args)
    study = read_study(options.study)
    if options.action == "status":
        print_status(study)
        return
    if options.action == "report":
        write_report(study, expanded(options.out, "--out"))
        return
    find_own_files(study, options.study)
    if options.dry_run:
        dry_run(study, rerun_stale=options.rerun_stale)
    elif options.ray_address is not None:
        with at_work(study.folder):
            run_on_ray(study, options)
    elif options.cpus_per_run is not None or options.gpus_per_run is not None:
        raise UserError("--cpus-per-run and --gpus-per-run go with --ray-address; on this machine use --workers")
    else:
        with at_work(study.folder):
            run_all(study, options, min(options.workers or 1, available_cores()))


def find_own_files(study: Study, path: Path) -> None:
    """Let all runs find the modules that the study names and that lie beside its file, or beside one it extends."""
    texts = [*study.base, *(item for levels in study.factors.values() for items in levels.values() for item in items)]
    os.environ.update(own_files.as_variable(in_study(files_of(path), [*texts, *study.tasks])))


def dry_run(study: Study, *, rerun_stale: bool) -> None:
    """Print the command of every run that would be run."""
    provenance = provenance_of(study, StudyConfigs(imports=True))
    for line in [] if rerun_stale else provenance.stale_lines():
        print(line, file=sys.stderr)
    own = "".join(f"{name}={shlex.quote(value)} " for name, value in own_files.as_variable([]).items())
    for one in study.runs():
        state = state_of(one, study.max_frames, provenance.stale)
        if state in ("stopped", "new") or (state == "stale" and rerun_stale):
            print(own + command(one, resume=state == "stopped"))


def run_on_ray(study: Study, options: argparse.Namespace) -> None:
    """Run everything that is not finished, on a Ray cluster.

    Raises:
        UserError: When Ray is not installed, or the cluster is not there or too small.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError("--ray-address needs Ray, which is not installed: pip install 'plasticity-rl[cluster]'")
    from plasticity_rl.study.ray import RayLaunch

    cpus = 1.0 if options.cpus_per_run is None else options.cpus_per_run
    launch = RayLaunch(options.ray_address, cpus, options.gpus_per_run or 0.0)
    try:
        run_all(study, options, min(options.workers or launch.num_places, launch.num_places), launch)
    finally:
        launch.close()


def run_all(study: Study, options: argparse.Namespace, num_workers: int, launch: Launch | None = None) -> None:
    """Run everything that is not finished, so many at a time; what is stale only if that was asked for."""
    path, runs = options.study, study.runs()
    provenance = provenance_of(study, StudyConfigs(imports=True))
    if options.rerun_stale:
        for source, target in move_aside([one for one in runs if one.name in provenance.stale]):
            print(f"moved aside: {source} to {target}")
        provenance = Provenance(unchecked=provenance.unchecked)
    stale = provenance.stale
    counts = count_states(runs, study.max_frames, stale)
    write_resolved(path, study.name, study.folder)
    print(
        f"{study.name}: {len(runs)} runs of {study.max_frames:,} frames in {study.folder}, "
        + ", ".join(f"{number} {state}" for state, number in counts.items())
    )
    for line in [*provenance.stale_lines(), *(f"note: {line}" for line in provenance.unchecked)]:
        print(line)
    runs = [one for one in runs if one.name not in stale]
    for end, number in go_on(runs, study.max_frames).items():
        print(
            f"max_frames is {study.max_frames:,} now: {number} run{'s' * (number > 1)} that ended at frame {end:,} "
            f"go{'es' * (number == 1)} on from the last checkpoint"
        )
    for line in what_it_cannot_say(study):
        print(f"note: {line}")
    print(f"TensorBoard: tensorboard --logdir {study.folder}", flush=True)
    table = LiveTable(study.name, len(runs) - counts["finished"], num_workers)
    runner = Runner(study.max_frames, num_workers, launch, say=table.say, show=table.show)
    try:
        runner.run_all(runs)
    except KeyboardInterrupt:
        table.say(f"Stopped: go on with plasticity-rl study run {shlex.quote(str(path))}")
        raise
    finally:
        table.close()
    if runner.failed:
        names = ", ".join(one.name for one, _ in runner.failed)
        raise RunFailure(
            f"{len(runner.failed)} of {len(runs)} runs failed ({names}); their log.txt says why, and "
            f"plasticity-rl study run {shlex.quote(str(path))} tries them again"
        )


def what_it_cannot_say(study: Study) -> list[str]:
    """Return why a study cannot end with a verdict, if so: better known before the runs than after them."""
    from plasticity_rl.results.statistics import FEW_SEEDS
    from plasticity_rl.study.comparisons import pairs_needed
    from plasticity_rl.study.endpoints import FEW_POINTS
    from plasticity_rl.study.evaluations import PERIOD, fewest_evaluations

    lines = []
    if len(study.seeds) < FEW_SEEDS:
        lines.append(f"{len(study.seeds)} seeds per arm; the report draws no verdict below {FEW_SEEDS}")
    pairs, needed = len(study.seeds) * len(study.tasks), pairs_needed(study.num_comparisons)
    if pairs < needed:
        lines.append(
            f"{len(study.seeds)} seeds on {len(study.tasks)} tasks are {pairs} pairs of runs; a verdict on "
            f"{study.num_comparisons} comparisons by an exact test needs {needed}"
        )
    for endpoint in (study.primary, *(one for one in study.secondary if one.of == "last_third")):
        found = fewest_evaluations(study, endpoint)
        if found is not None and found < FEW_POINTS:
            lines.append(
                f"{endpoint.name} averages {found} evaluation{'s' * (found != 1)} of a run; for {FEW_POINTS} or more "
                f"choose a smaller {PERIOD}, or of: area"
            )
    return lines


def write_report(study: Study, out: Path) -> None:
    """Write ``report.md``, ``report.tex`` and, where matplotlib is installed, ``index.html`` and figures into ``out``.

    Raises:
        UserError: When no run is finished, or ``out`` cannot be written.
    """
    from plasticity_rl.study.report import make_report
    from plasticity_rl.study.scores import read_scores
    from plasticity_rl.study.tables import latex, markdown

    provenance = provenance_of(study, StudyConfigs(imports=False))
    scores, missing = read_scores(study, provenance.stale)
    if not scores and provenance.stale:
        name, why = next(iter(provenance.stale.items()))
        raise UserError(
            f"no run of {study.name} is finished with the options that the study has now, {len(provenance.stale)} are "
            f"stale ({name}: {why}): plasticity-rl study run --rerun_stale first"
        )
    if not scores:
        raise UserError(f"no run of {study.name} is finished in {study.folder}: plasticity-rl study run first")
    report = make_report(study, scores, missing, provenance)
    try:
        out.mkdir(parents=True, exist_ok=True)
        if importlib.util.find_spec("matplotlib") is None:
            print("note: no figures and no page without matplotlib: pip install 'plasticity-rl[plot]'")
            names = []
        else:
            names = write_figures(report, out)
        text = markdown(report, names)
        replace_file(out / "report.md", text)
        replace_file(out / "report.tex", latex(report))
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror})") from error
    print(text)
    print(f"Report: {out / ('index.html' if names else 'report.md')}")


def write_figures(report: Report, out: Path) -> list[str]:
    """Write every figure as PNG and SVG, and the page that holds them; return the names of the PNG files."""
    from plasticity_rl.results.plots import write
    from plasticity_rl.study.figures import figures
    from plasticity_rl.study.page import page_of

    drawings = {}
    for name, (figure, caption) in figures(report).items():
        for file_format in ("png", "svg"):
            with drafted(out / f"{name}.{file_format}") as draft:
                write(figure, draft, file_format)
        drawings[name] = ((out / f"{name}.svg").read_text(encoding="utf-8"), caption)
    replace_file(out / "index.html", page_of(report, drawings))
    return [f"{name}.png" for name in drawings]


def print_status(study: Study) -> None:
    """Print a table: task and arm, and the state of every seed."""
    cells: dict[tuple[str, str], list[str]] = {}
    provenance = provenance_of(study, StudyConfigs(imports=False))
    for one in study.runs():
        cells.setdefault((one.task, one.arm), []).append(state_of(one, study.max_frames, provenance.stale))
    width = [max(len(key[column]) for key in cells) for column in (0, 1)]
    print(f"{'task':{width[0]}}  {'arm':{width[1]}}  " + "  ".join(f"{f'seed{seed}':8}" for seed in study.seeds))
    for (task, arm), states in cells.items():
        print(f"{task:{width[0]}}  {arm:{width[1]}}  " + "  ".join(f"{state:8}" for state in states))
    for line in [*provenance.stale_lines(), *(f"note: {line}" for line in provenance.unchecked)]:
        print(line)
