"""``plasticity-rl doctor``: what is wrong with this machine or installation, and what to do about it."""

from __future__ import annotations

import argparse
import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from plasticity_rl import __version__
from plasticity_rl.cli.commands.arguments import OneLineArguments
from plasticity_rl.cli.commands.json_files import json_file, write_json
from plasticity_rl.errors import UserError, suggestion
from plasticity_rl.files.places import expanded
from plasticity_rl.machine.health import SECURITY, Finding, check_disk, guarded, problems, quick_findings
from plasticity_rl.machine.trial_findings import (
    BACKENDS,
    check_egl_device,
    check_gpu,
    check_imports,
    check_triton,
    rendering_findings,
)
from plasticity_rl.machine.trials import Trial, run_trial

OF_RUN = (
    "--config",
    "-c",
    "--agent",
    "--max_frames",
    "--seed_everything",
    "--ckpt_path",
    "--init_weights",
    "--detect_nan",
    "--trust",
)
GROUPS = ("--data", "--model", "--trainer")
"""Options of ``fit``, which ``doctor`` takes to know the run: single ones, and groups as a whole or one by one."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command; what it does not know are options of ``fit``."""
    parser = OneLineArguments(
        prog="plasticity-rl doctor",
        usage="plasticity-rl doctor [--json FILE] [--config FILE ...] [options of fit]",
        description="Check versions, imports, GPU, rendering, threads and disk, and whether memory and disk hold the "
        "replay of a configuration. Every problem comes with its fix. Exit code 0 without problems, 1 with some.",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings as JSON too")
    return parser


def run(args: Sequence[str]) -> int:
    """Parse ``args`` (without the subcommand), check, and print.

    Returns:
        The exit code.

    Raises:
        UserError: When the input is wrong.
    """
    options, of_run = parser().parse_known_args(args)
    refuse_unknown(of_run)
    if options.json is not None:
        options.json = json_file(options.json)
    found: list[Finding] = []
    print(f"plasticity-rl {__version__}")
    for finding in findings(of_run):
        print(line(finding), flush=True)
        found.append(finding)
    bad = problems(found)
    print(f"\n{len(bad)} problem{'s' if len(bad) > 1 else ''}" if bad else "\nno problems")
    if options.json is not None:
        content = {"version": __version__, "findings": [asdict(finding) for finding in found]}
        write_json(options.json, content)
    return 1 if bad else 0


def refuse_unknown(of_run: Sequence[str]) -> None:
    """Raise UserError for what cannot be an option of ``fit``; the rest is for its parser to say, as a finding."""
    for arg in [*of_run[:1], *(arg for arg in of_run[1:] if arg.startswith("-"))]:
        name = arg.partition("=")[0]
        if name == "--print_config":
            raise UserError("--print_config belongs to fit: plasticity-rl fit ... --print_config")
        if name not in OF_RUN and name.partition(".")[0] not in GROUPS:
            hint = suggestion(name, ("--json", *OF_RUN))
            raise UserError(f"unrecognized arguments: {name}.{hint} See plasticity-rl doctor --help")


def line(finding: Finding) -> str:
    """Return a finding in aligned columns, its fix below it."""
    text = f"{finding.level:8} {finding.check:10} {finding.text}"
    return f"{text}\n{'':8} {'':10} fix: {finding.fix}" if finding.fix else text


def findings(of_run: Sequence[str]) -> Iterator[Finding]:
    """Yield what the checks find, the quick ones first.

    Args:
        of_run: Options of ``fit``, or none.
    """
    quick = quick_findings()
    yield from quick
    yield from guarded("disk", lambda: check_disk(run_folder(of_run)))
    if any(finding.check == SECURITY for finding in quick):
        return  # nothing below may import it
    imports = run_trial("imports")
    broken = guarded("imports", lambda: check_imports(imports))
    yield from broken
    yield from guarded("gpu", lambda: check_gpu(imports, len(glob.glob("/dev/nvidia[0-9]*"))))
    drawn = guarded("rendering", lambda: rendering(imports))
    if not problems(broken):
        drawn += guarded("triton", lambda: check_triton(run_trial("order") if find_spec("triton") else None))
    yield from drawn if needs_rendering(of_run) else [as_note(finding) for finding in drawn]
    if of_run and problems(broken):
        yield Finding("config", "note", "not checked: imports fail")
    elif of_run:
        yield from guarded("config", lambda: check_run(of_run))


def check_run(args: Sequence[str]) -> list[Finding]:
    """Build what a command would train, without training, and compare its replay with memory and disk.

    Args:
        args: Options of ``fit``.
    """
    from plasticity_rl.cli.rebuild import build_only
    from plasticity_rl.machine.capacity import available_disk, available_memory, check_fits, rounded_bytes

    try:
        run = build_only(["fit", *args])
        folder = Path(run.data.replay_dir or run.run_dir / "replay")
        num_bytes = run.data.replay_size_bytes
        check_fits(num_bytes, run.data.storage, folder, run.data.priority_bytes)
    except UserError as error:
        return [Finding("config", "problem", str(error))]
    memory, needed = available_memory(), run.data.priority_bytes + (num_bytes if run.data.storage == "ram" else 0)
    size, free = rounded_bytes(num_bytes), rounded_bytes(available_disk(folder))
    both = f" and {rounded_bytes(needed)} of memory ({rounded_bytes(memory)} available)" if needed and memory else ""
    text = f"{run.data.task}: a full replay takes {size} of disk ({free} free){both}"
    return [Finding("config", "ok", text)]


def rendering(imports: Trial) -> list[Finding]:
    """Try every backend, and whether EGL draws on the GPU that trains."""
    from plasticity_rl.machine.rendering import configure_backend

    asked = os.environ.get("MUJOCO_GL")
    configure_backend()
    chosen = os.environ.get("MUJOCO_GL")
    names = dict.fromkeys([chosen, *BACKENDS] if chosen else BACKENDS)
    # Without PYOPENGL_PLATFORM, which a run before may have set: dm_control refuses another backend than it names.
    trials = {
        name: run_trial("rendering", environment={"MUJOCO_GL": name, "PYOPENGL_PLATFORM": None}) for name in names
    }
    gpus: list[str] = next((result["gpus"] for result in imports.results if "gpus" in result), [])
    environment = (os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("MUJOCO_EGL_DEVICE_ID"))
    found = [*rendering_findings(trials, chosen), *check_egl_device(trials.get("egl", Trial()), gpus, *environment)]
    if asked is None:
        os.environ.pop("MUJOCO_GL", None)
    return found


def as_note(finding: Finding) -> Finding:
    """Return a problem as a note: true, but of no consequence for this run."""
    return replace(finding, level="note") if finding.level == "problem" else finding


def needs_rendering(of_run: Sequence[str]) -> bool:
    """Return whether ``fit`` with these options observes pixels."""
    return _setting(of_run, "data.observation") != "state"


def run_folder(of_run: Sequence[str]) -> Path:
    """Return where the run of a command would write, as far as its options say."""
    return expanded(Path(_setting(of_run, "trainer.default_root_dir") or "runs"), "--trainer.default_root_dir")


def _setting(of_run: Sequence[str], key: str) -> Any:
    """Return what ``fit`` would take for ``key``: given, or saved with the run whose checkpoint is named."""
    try:
        from plasticity_rl.cli.early import read

        return read(["fit", *of_run]).setting(key)
    except (ImportError, UserError):  # without yaml, or a broken file, which is a finding of its own
        return None
