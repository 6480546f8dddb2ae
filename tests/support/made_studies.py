"""Studies whose finished runs have curves that a test chooses, and their reports read back."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from cli_runs import call
from run_folders import write_run

from plasticity_rl.study.spec import read_study
from plasticity_rl.study.study_run import StudyRun

Curves = Mapping[str, Mapping[int, float]]


def study_of(
    where: Path, curves: Callable[[StudyRun], Curves | None], *, arms=("plain", "new"), tasks=("walk",), seeds=5, **more
) -> Path:
    """Write a study whose finished runs have these curves; None is a run that is not finished."""
    (where / "empty.yaml").write_text("{}")
    content = {
        "base": [str(where / "empty.yaml")],
        "max_frames": 100,
        "tasks": list(tasks),
        "folder": str(where / "runs"),
    }
    levels = {arm: [f"model.lr=0.{index + 1}"] for index, arm in enumerate(arms)}
    content |= {"seeds": list(range(1, seeds + 1)), "factors": {"arm": levels}, **more}
    path = where / "made.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    for run in read_study(path).runs():
        found = curves(run)
        if found is not None:
            finish(run, found)
    return path


def finish(run: StudyRun, curves: Curves) -> None:
    """Write what a finished run leaves."""
    write_run(run.folder, curves)
    (run.folder / "config.yaml").write_text(yaml.safe_dump(config_of(run)))
    (run.folder / "finished.yaml").write_text("env_frames: 100\n")


def config_of(run: StudyRun) -> dict[str, Any]:
    """Return the options of a run without its files, as in a ``config.yaml``."""
    config: dict[str, Any] = {}
    for argument in run.arguments:
        if "=" in argument:
            option, _, text = argument.removeprefix("--").partition("=")
            *sections, name = option.split(".")
            section = config
            for one in sections:
                section = section.setdefault(one, {})
            section[name] = yaml.safe_load(text)
    return config


def flat(value: float) -> dict[int, float]:
    return {0: value, 100: value}


def report_of(path: Path, out: Path) -> str:
    result = call("study", "report", path, "--out", out)
    assert result.code == 0, result.err
    return result.out


def tables(text: str, title: str) -> list[list[dict[str, str]]]:
    """Return the tables of a section as rows by head."""
    (section,) = [part for part in text.split("\n## ")[1:] if part.splitlines()[0] == title]
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE):
        head, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines()]
        found.append([dict(zip(head, row, strict=True)) for row in rows])
    return found


def ends(cell: str) -> tuple[float, float, float]:
    """Return value, lower and upper end of a cell."""
    value, low, high = (float(number) for number in re.findall(r"[-+]?[\d.]+", cell))
    return value, low, high
