"""The options of a run as plain data, for its checkpoints."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelSummary, Timer
from lightning.pytorch.callbacks.progress import ProgressBar

from plasticity_rl.agents.hooks import RLCallback, callbacks_of, class_path, intervenes, plain
from plasticity_rl.data.module import RLDataModule
from plasticity_rl.data.options import DataOptions

Agent = Any
"""An :class:`plasticity_rl.RLModule`, which is built on this file."""
RECORD = "run_options"
"""Entry of a checkpoint: what :func:`record_of` returns, and ``changes``, the options that were changed on the way."""
_EVERY_START = (ProgressBar, ModelSummary, Timer)
"""Callbacks of Lightning that show a start, or end it."""


def record_of(agent: Agent) -> dict[str, Any]:
    """Return what a run in a Trainer was trained with, before anything of it changes."""
    callbacks = callbacks_of(agent.trainer)
    return {
        "options": plain(options_of(agent)),
        "other_callbacks": other_callbacks(callbacks),
        "intervening": sorted({class_path(type(one)) for one in callbacks if intervenes(one)}),
        "folder": os.getcwd(),  # where relative paths start
    }


def options_of(agent: Agent) -> dict[str, Any]:
    """Return every option of an agent in a Trainer that the table decides about, by its full name."""
    data, trainer = agent.data, agent.trainer
    own = {name: plain(value) for name, value in agent.options().items()}
    environment = {name: plain(value) for name, value in data.environment.values.items()}
    of_data = {field.name: getattr(data, field.name) for field in fields(DataOptions)}
    of_data = {**environment, **{name: plain(value) for name, value in of_data.items()}, "env": _name_of(data.env)}
    return {
        "agent": class_path(type(agent)),
        "init_weights": agent.weights_from,
        "detect_nan": any(_detects_nan(one) for one in callbacks_of(trainer)),
        **{f"data.{name}": value for name, value in of_data.items()},  # first: shapes of networks follow from them
        **{f"model.{name}": value for name, value in own.items()},
        **{f"trainer.{name}": value for name, value in _in_effect(trainer).items()},
    }


def _in_effect(trainer: Any) -> dict[str, Any]:
    """Return what a Trainer does, whatever it was told: ``auto`` becomes the device, None the default."""
    return {
        "precision": str(trainer.precision),
        "accelerator": trainer.strategy.root_device.type,
        "strategy": type(trainer.strategy).__name__,
        "log_every_n_steps": trainer.log_every_n_steps,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "benchmark": torch.backends.cudnn.benchmark,
        "sync_batchnorm": getattr(trainer.strategy, "_layer_sync", None) is not None,
    }


def other_callbacks(callbacks: Iterable[pl.Callback]) -> list[dict[str, Any]]:
    """Return class and arguments of the callbacks that are neither interventions nor probes, as far as they keep them.

    Without those that only serve a single start: what shows it, what limits it, and the command line's own.
    """
    found = []
    for one in callbacks:
        described = isinstance(one, RLCallback) and one.is_described
        own = isinstance(one, _EVERY_START) or type(one).__module__.startswith("plasticity_rl.cli.")
        if described or own or _detects_nan(one):  # that is an option by itself
            continue
        found.append({"class": class_path(type(one)), "arguments": kept_arguments(one)})
    return found


def _detects_nan(callback: pl.Callback) -> bool:
    return type(callback).__name__ == "DetectNaN"  # of a package that is built on this one


def kept_arguments(callback: pl.Callback) -> dict[str, Any]:
    """Return the constructor's arguments that a callback keeps under their name, if they are plain and no folder."""
    kept = {}
    for name in inspect.signature(type(callback)).parameters:
        value = getattr(callback, name, getattr(callback, f"_{name}", MISSING))
        if value is None or (isinstance(value, bool | int | float | str | list | tuple) and name != "dirpath"):
            kept[name] = plain(value)
    return kept


def _name_of(factory: Callable[..., Any]) -> str:
    """Return the name of what makes environments, without addresses in memory."""
    if isinstance(factory, functools.partial):
        return f"{_name_of(factory.func)}({plain(factory.args)}, {plain(factory.keywords)})"
    own = factory if hasattr(factory, "__qualname__") else type(factory)
    return f"{own.__module__}.{own.__qualname__}"


def saved_options(checkpoint: Mapping[str, Any], data_key: str) -> Mapping[str, Any]:
    """Return the options that a checkpoint holds, by their full name; one of before they were recorded holds fewer."""
    if RECORD in checkpoint:
        return checkpoint[RECORD]["options"]
    network = {f"model.{name}": plain(value) for name, value in checkpoint.get("hyper_parameters", {}).items()}
    identity = (checkpoint.get(data_key) or {}).get("identity", {})
    return network | {f"data.{name}": plain(value) for name, value in identity.items()}


def default_options(agent: Agent) -> dict[str, Any]:
    """Return the defaults of options, with which those compare that a checkpoint does not know: there were none yet."""
    found = {}
    for prefix, cls in {"model": type(agent), "data": type(agent.data)}.items():
        for name, parameter in inspect.signature(cls).parameters.items():
            if parameter.default is not inspect.Parameter.empty:
                found[f"{prefix}.{name}"] = plain(parameter.default)
    return {**found, "data.env": _name_of(inspect.signature(RLDataModule).parameters["env"].default)}
