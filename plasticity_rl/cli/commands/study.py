"""``plasticity-rl study``: run all arms, tasks and seeds of a factorial study, and report what came out."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from plasticity_rl.cli.commands.arguments import OneLineArguments, share, whole_number
from plasticity_rl.cli.own_files import in_study
from plasticity_rl.cli.study_checks import refuse_wrong_arms
from plasticity_rl.cli.study_configs import StudyConfigs
from plasticity_rl.cli.study_reports import keep_runs, report_on, take_runs
from plasticity_rl.errors import RunFailure, UserError
from plasticity_rl.files import own_files
from plasticity_rl.files.places import expanded
from plasticity_rl.machine.health import available_cores
from plasticity_rl.study.aside import move_aside
from plasticity_rl.study.extends import files_of, write_resolved
from plasticity_rl.study.lock import at_work
from plasticity_rl.study.progress import LiveTable
from plasticity_rl.study.runner import Launch, Runner
from plasticity_rl.study.spec import Study, count_states, go_on, read_study, state_of
from plasticity_rl.study.stale import provenance_of
from plasticity_rl.study.study_run import StudyRun, command
from plasticity_rl.study.take import refuse_without_checkpoint


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
    _add_run(actions)
    status = actions.add_parser("status", help="print which runs are finished", prog="plasticity-rl study status")
    status.add_argument("study", type=Path, metavar="STUDY.yaml")
    report = actions.add_parser("report", help="write what came out", prog="plasticity-rl study report")
    report.add_argument("study", type=Path, metavar="STUDY.yaml")
    report.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for report.md, report.tex, index.html and figures (default: none; the text is printed)",
    )
    report.add_argument(
        "--from",
        type=Path,
        dest="source",
        metavar="FILE.tar.xz",
        help="read the runs from a file that study keep made, not from their folders",
    )
    keep = actions.add_parser("keep", help="write what a report reads into one file", prog="plasticity-rl study keep")
    keep.description = (
        "Write of all finished runs what a report reads (options, origin, curves and events) into one small file: "
        "evidence to publish, from which study report --from makes the same report without the run folders, and "
        "nobody trains again. Runs that are stale or not finished are left out and named. It is an archive of run "
        "folders, so plot and TensorBoard read it when it is unpacked."
    )
    keep.add_argument("study", type=Path, metavar="STUDY.yaml")
    keep.add_argument("--out", type=Path, required=True, metavar="FILE.tar.xz", help="a new file; none is overwritten")
    keep.add_argument(
        "--tags",
        nargs="+",
        default=[],
        metavar="TAG",
        help="further curves for plot, e.g. 'train/*'; * is any text (default: those of the report)",
    )
    return parser


def _add_run(actions: argparse._SubParsersAction[OneLineArguments]) -> None:
    run = actions.add_parser("run", help="run what is not finished", prog="plasticity-rl study run")
    run.add_argument("study", type=Path, metavar="STUDY.yaml", help="a file, or one of list studies")
    run.add_argument("--workers", type=whole_number(1), help="runs at a time (default: 1; on a cluster, what it holds)")
    run.add_argument(
        "--rerun_stale",
        "--rerun-stale",
        action="store_true",
        help="move runs aside that were made with other options than the study has now, and run them anew",
    )
    run.add_argument(
        "--from",
        type=Path,
        dest="sources",
        action="append",
        default=[],
        metavar="FILE.tar.xz",
        help="take finished runs from a file that study keep made, where they have no folder yet; may be repeated",
    )
    run.add_argument("--dry-run", action="store_true", help="print the command of every run, and run nothing")
    cluster = run.add_argument_group("on a Ray cluster, which needs the extra [cluster]")
    cluster.add_argument("--ray-address", metavar="ADDRESS", help="e.g. auto, or local for one on this machine")
    cluster.add_argument("--cpus-per-run", type=share(1), metavar="N", help="CPUs that a run holds (default: 1)")
    cluster.add_argument("--gpus-per-run", type=share(0), metavar="N", help="0.25: four runs on a GPU (default: 0)")


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
        out = None if options.out is None else expanded(options.out, "--out")
        report_on(study, out, None if options.source is None else expanded(options.source, "--from"))
        return
    if options.action == "keep":
        keep_runs(study, expanded(options.out, "--out"), options.tags)
        return
    find_own_files(study, options.study)
    if options.dry_run:
        dry_run(study, options)
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


def stale_runs(study: Study, configs: StudyConfigs) -> list[StudyRun]:
    """Return the runs that were made with other options than the study has now."""
    stale = provenance_of(study, configs).stale
    return [run for run in study.runs() if run.name in stale]


def dry_run(study: Study, options: argparse.Namespace) -> None:
    """Print the command of every run that would be run."""
    rerun_stale = options.rerun_stale
    taken = set().union(*(take_runs(study, expanded(source, "--from"), write=False) for source in options.sources))
    provenance = provenance_of(study, StudyConfigs(imports=True))
    for line in [] if rerun_stale else provenance.stale_lines():
        print(line, file=sys.stderr)
    own = "".join(f"{name}={shlex.quote(value)} " for name, value in own_files.as_variable([]).items())
    for one in study.runs():
        state = state_of(one, study.max_frames, provenance.stale)
        if one.name not in taken and (state in ("stopped", "new") or (state == "stale" and rerun_stale)):
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
    path = options.study
    configs = StudyConfigs(imports=True)
    if options.rerun_stale:
        # Again and again: below one that lies in another study's folder there may be one in the own folder.
        while moved := move_aside(stale_runs(study, configs)):
            for old, new in moved:
                print(f"moved aside: {old} to {new}")
    for source in options.sources:
        take_runs(study, expanded(source, "--from"), write=True)
    runs = study.runs()  # those that were taken are here now, where another study has none
    provenance = provenance_of(study, configs)
    stale = provenance.stale
    refuse_without_checkpoint([one for one in runs if one.name not in stale], study.max_frames)
    to_train = [one for one in runs if state_of(one, study.max_frames, stale) in ("new", "stopped")]
    refuse_wrong_arms(to_train, configs, simulated_here=launch is None)
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
    print(f"TensorBoard: tensorboard --logdir {shlex.quote(str(study.folder))}", flush=True)
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
