"""``plasticity-rl study``: run all arms, tasks and seeds of a factorial study, and report what came out."""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from plasticity_rl.commands.arguments import OneLineArguments, whole_number
from plasticity_rl.errors import RunFailure, UserError
from plasticity_rl.study import Study, command, count_states, read_study, state_of
from plasticity_rl.study_runner import Runner

FEW_SEEDS = 5


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = OneLineArguments(
        prog="plasticity-rl study",
        description="A study: every combination of the levels of its factors, on every task, with every seed. "
        "run skips what is finished, and goes on with what was stopped or killed from its last checkpoint.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    run = actions.add_parser("run", help="run what is not finished", prog="plasticity-rl study run")
    run.add_argument("study", type=Path, metavar="STUDY.yaml", help="for example of configs/studies/")
    run.add_argument("--workers", type=whole_number(1), default=1, help="runs at a time (default: %(default)s)")
    run.add_argument("--dry-run", action="store_true", help="print the command of every run, and run nothing")
    status = actions.add_parser("status", help="print which runs are finished", prog="plasticity-rl study status")
    status.add_argument("study", type=Path, metavar="STUDY.yaml")
    report = actions.add_parser("report", help="write what came out", prog="plasticity-rl study report")
    report.add_argument("study", type=Path, metavar="STUDY.yaml")
    report.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for report.md and figures")
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
    elif options.action == "report":
        write_report(study, options.out)
    elif options.dry_run:
        for one in study.runs():
            if (state := state_of(one, study.max_frames)) != "finished":
                print(command(one, resume=state == "stopped"))
    else:
        run_here(study, options.study, options.workers)


def run_here(study: Study, path: Path, num_workers: int) -> None:
    """Run everything that is not finished, on this machine."""
    runs = study.runs()
    counts = count_states(runs, study.max_frames)
    print(
        f"{study.name}: {len(runs)} runs of {study.max_frames:,} frames in {study.folder}, "
        + ", ".join(f"{number} {state}" for state, number in counts.items())
    )
    if len(study.seeds) < FEW_SEEDS:
        print(f"note: {len(study.seeds)} seeds per arm; intervals are rough below {FEW_SEEDS}")
    print(f"TensorBoard: tensorboard --logdir {study.folder}", flush=True)
    runner = Runner(study.max_frames, min(num_workers, os.cpu_count() or 1), say=lambda line: print(line, flush=True))
    try:
        runner.run_all(runs)
    except KeyboardInterrupt:
        print(f"Stopped: go on with plasticity-rl study run {path}", flush=True)
        raise
    if runner.failed:
        names = ", ".join(one.name for one, _ in runner.failed)
        raise RunFailure(
            f"{len(runner.failed)} of {len(runs)} runs failed ({names}); their log.txt says why, and "
            f"plasticity-rl study run {path} tries them again"
        )


def write_report(study: Study, out: Path) -> None:
    """Write ``report.md`` and, where matplotlib is installed, ``curves.png`` and ``curves.svg`` into ``out``.

    Raises:
        UserError: When no run is finished, or ``out`` cannot be written.
    """
    from plasticity_rl.study_report import markdown, read_scores

    scores, missing = read_scores(study)
    if not scores:
        raise UserError(f"no run of {study.name} is finished in {study.folder}: plasticity-rl study run first")
    text = markdown(study, scores, missing)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "report.md").write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror})") from error
    if importlib.util.find_spec("matplotlib") is not None:
        from plasticity_rl.arms import arms_of
        from plasticity_rl.plotting import draw, write
        from plasticity_rl.run_data import read_run

        figure = draw(arms_of([read_run(score.run.folder) for score in scores]))
        for file_format in ("png", "svg"):
            write(figure, out / f"curves.{file_format}", file_format)
    print(text)
    print(f"Report: {out / 'report.md'}")


def print_status(study: Study) -> None:
    """Print a table: task and arm, and the state of every seed."""
    cells: dict[tuple[str, str], list[str]] = {}
    for one in study.runs():
        cells.setdefault((one.task, one.arm), []).append(state_of(one, study.max_frames))
    width = [max(len(key[column]) for key in cells) for column in (0, 1)]
    print(f"{'task':{width[0]}}  {'arm':{width[1]}}  " + "  ".join(f"{f'seed{seed}':8}" for seed in study.seeds))
    for (task, arm), states in cells.items():
        print(f"{task:{width[0]}}  {arm:{width[1]}}  " + "  ".join(f"{state:8}" for state in states))
