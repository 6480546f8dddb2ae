"""Run folders with curves that a test chooses, written the way a run writes them, without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.loggers import Logger

from plasticity_rl.run.logger import note_going_on, run_logger
from plasticity_rl.scalars import log_scalars, log_text

Points = Mapping[int, float]


def entry(name: str, **arguments: Any) -> dict[str, Any]:
    """Return a callback as it stands in a config."""
    return {"class_path": name, "init_args": arguments}


def write_config(
    folder: Path,
    *,
    task: str = "tiny",
    seed: int = 1,
    callbacks: Sequence[dict] = (),
    trainer: Mapping[str, Any] = {},
    init_weights: str | None = None,
    **model: Any,
) -> Path:
    """Write a ``config.yaml`` with what tells runs apart."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "seed_everything": seed,
        "data": {"task": task, "batch_size": 8, "seed": seed},
        "model": {"replay_ratio": 0.5, "seed": seed, **model},
        "trainer": {"callbacks": list(callbacks) or None, "default_root_dir": str(folder), **trainer},
        **({"init_weights": init_weights} if init_weights else {}),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def write_events(
    folder: Path, curves: Mapping[str, Points], events: Mapping[int, str] = {}, *, goes_on_from: int | None = None
) -> None:
    """Write scalars by tag and frame, and events (frame -> name of an intervention), as one session of a run."""
    loggers: list[Logger] = [logger := run_logger(folder)]
    if goes_on_from is not None:
        note_going_on(logger.experiment, goes_on_from)
    for tag, points in curves.items():
        for frame, value in points.items():
            log_scalars(loggers, {tag: value}, frame)
    for frame, name in events.items():
        log_scalars(loggers, {f"intervention/{name}": 1.0}, frame)
        log_text(loggers, f"intervention/{name}", f"{name} at frame {frame}", frame)
    loggers[0].finalize("success")


def write_run(folder: Path, curves: Mapping[str, Points], events: Mapping[int, str] = {}, **config: Any) -> Path:
    """Write both."""
    write_config(folder, **config)
    write_events(folder, curves, events)
    return folder
