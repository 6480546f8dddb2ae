"""How many evaluations an endpoint will average, known from a study file before its runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml

from plasticity_rl.files.strict_yaml import load
from plasticity_rl.packaged import find_config
from plasticity_rl.study.endpoints import Endpoint, in_share
from plasticity_rl.study.spec import Study
from plasticity_rl.study.study_run import StudyRun

PERIOD = "data.eval_every_n_frames"


def fewest_evaluations(study: Study, endpoint: Endpoint) -> int | None:
    """Return how many evaluations of a run an endpoint averages, in the arm with the fewest.

    They follow every ``data.eval_every_n_frames`` env frames and the last step.

    Args:
        study: The study.
        endpoint: ``last_third`` or ``final`` of a curve of evaluations.

    Returns:
        Their number; None when the endpoint is another one, or no file or option of the study says the period.
    """
    if endpoint.share is None or not endpoint.tag.startswith("eval/"):
        return None
    arms = {(run.task, run.arm): run for run in study.runs()}  # those of one arm differ in the seed alone
    known: dict[Path, int | None] = {}
    periods = [period for run in arms.values() if (period := _period(run, known)) is not None]
    if not periods:
        return None
    frames = np.array([*range(0, study.max_frames, max(periods)), study.max_frames])
    return int(np.count_nonzero(in_share(frames, endpoint.of, study.max_frames)))


def _period(run: StudyRun, known: dict[Path, int | None]) -> int | None:
    """Return the last value that the command line of a run gives the period."""
    return next((period for period in reversed(list(_periods(run, known))) if period is not None), None)


def _periods(run: StudyRun, known: dict[Path, int | None]) -> Iterator[int | None]:
    for one, following in zip(run.arguments, (*run.arguments[1:], ""), strict=True):
        if one == "--config" and (path := find_config(following)) is not None:
            yield _in_file(path, known)
        elif one.startswith(f"--{PERIOD}="):
            yield _whole(one.partition("=")[2])


def _in_file(path: Path, known: dict[Path, int | None]) -> int | None:
    """Return the period that a file says; each is read once, however many arms name it."""
    if path not in known:
        known[path] = _read(path)
    return known[path]


def _read(path: Path) -> int | None:
    try:
        data = (load(path.read_text(encoding="utf-8")) or {}).get("data") or {}
    except (OSError, AttributeError, RecursionError, yaml.YAMLError):  # the run itself says what is wrong
        return None
    return _whole(data.get("eval_every_n_frames"))


def _whole(value: object) -> int | None:
    try:
        return max(1, int(str(value)))
    except ValueError:
        return None
