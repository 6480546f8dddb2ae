"""What a run consists of, in words and plain data: for its name and its hyperparameters."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl

from plasticity_rl.agents.base import RLModule
from plasticity_rl.agents.hooks import RLCallback, constructor_parameters, in_order, plain
from plasticity_rl.callback import Intervention, Probe
from plasticity_rl.callback.declarations import BUILD_STAGES, FAMILIES

LONGEST_NAME = 100
"""Characters of the interventions in a run folder's name: file systems allow 255 for all of it."""


def hyperparameters(agent: RLModule, callbacks: Iterable[pl.Callback]) -> dict[str, bool | int | float | str]:
    """Return everything that was chosen for a run, flat: one readable key for each argument.

    ``task``, ``seed``, ``interventions`` and ``probes`` (their names), then ``interventions/ReDo/tau`` (of a second
    one ``interventions/ReDo_2/tau``), ``probes/...``, ``data/...`` and ``model/...``. A key does not depend on what
    else the run has, so that runs share their columns. Lists become text, and what was left open ``none``.
    """
    names = {kind: [type(c).__name__ for c in in_order(callbacks) if isinstance(c, kind)] for kind in _KINDS}
    flat: dict[str, Any] = {
        "task": agent.data.task,
        "seed": agent.rng.seed,
        **{title: " + ".join(names[kind]) or "none" for kind, title in _KINDS.items()},
    }
    if agent.weights_from is not None:
        flat["init_weights"] = agent.weights_from
    for prefix, callback in _by_key(callbacks).items():
        arguments = plain(callback.arguments())
        flat |= {f"{prefix}/{key}": value for key, value in arguments.items()} or {prefix: "no arguments"}
    flat |= {f"data/{name}": value for name, value in _settings(agent.data).items()}
    flat |= {f"model/{name}": plain(value) for name, value in agent.hparams.items()}
    return {key: _cell(value) for key, value in flat.items()}


_KINDS: dict[type[RLCallback], str] = {Intervention: "interventions", Probe: "probes"}


def _by_key(callbacks: Iterable[pl.Callback]) -> dict[str, RLCallback]:
    """Return interventions and probes by their key; namesakes are numbered in the order in which they act."""
    found: dict[str, RLCallback] = {}
    for callback in in_order(callbacks):
        for kind, title in _KINDS.items():
            if isinstance(callback, kind):
                key = f"{title}/{type(callback).__name__}"
                namesakes = sum(type(other) is type(callback) for other in found.values())
                found[f"{key}_{namesakes + 1}" if namesakes else key] = callback
    return found


def first_columns(callbacks: Iterable[pl.Callback]) -> list[str]:
    """Return the keys of :func:`hyperparameters` to look at first: what tells runs of one study apart.

    That is task, seed, names of the interventions, and their arguments other than the defaults.
    """
    keys = ["interventions", "seed", "task"]
    for prefix, callback in _by_key(callbacks).items():
        if isinstance(callback, Intervention):
            parameters = constructor_parameters(type(callback))
            defaults = {name: plain(parameter.default) for name, parameter in parameters.items()}
            given = {k: v for k, v in callback.arguments().items() if k not in callback.open_arguments()}
            chosen = {name for name, value in given.items() if plain(value) != defaults[name]}
            keys += [f"{prefix}/{name}" for name in sorted(chosen)]
    return keys


def _settings(data: Any) -> dict[str, Any]:
    """Return the constructor arguments that an object keeps under their own names, and that are plain data."""
    kept = {name: getattr(data, name, None) for name in inspect.signature(type(data)).parameters}
    return {name: value for name, value in kept.items() if isinstance(value, (bool, int, float, str))}


def _cell(value: Any) -> bool | int | float | str:
    if isinstance(value, (list, dict)):
        return str(value).replace("'", "")
    return "none" if value is None else value


def short_name(
    interventions: Iterable[tuple[type[Intervention], Mapping[str, Any]]], longest: int = LONGEST_NAME
) -> str:
    """Return interventions with their arguments for a folder's name, in the order in which they act.

    ``redo-tau=0.1+reset-every_n_frames=300000``: of the arguments those that are not the default. Where that is longer
    than ``longest``, names alone (``redo+reset_x2``), as many as fit, and then how many more there are.

    Args:
        interventions: Class and constructor arguments of each.
        longest: Characters.
    """
    given = sorted(interventions, key=lambda one: (*_rank(one[0]), _chosen(*one)))
    full = "+".join(_name(cls) + _chosen(cls, arguments) for cls, arguments in given)
    return full if len(full) <= longest else _names_alone([cls for cls, _ in given], longest)


def _names_alone(interventions: Sequence[type[Intervention]], longest: int) -> str:
    counts = Counter(map(_name, interventions))
    words = [name if count == 1 else f"{name}_x{count}" for name, count in counts.items()]
    if len("+".join(words)) <= longest:
        return "+".join(words)
    kept: list[str] = []
    for word in words:
        more = f"+{len(words) - len(kept) - 1}_more"
        if len("+".join([*kept, word])) + len(more) > longest:
            break
        kept.append(word)
    return "+".join([*kept, f"{len(words) - len(kept)}_more"])


def _chosen(cls: type[Intervention], arguments: Mapping[str, Any]) -> str:
    """Return the arguments that are not the default, with no character that a shell or a file system minds."""
    parameters = constructor_parameters(cls)
    chosen = {key: plain(value) for key, value in arguments.items() if plain(value) != plain(parameters[key].default)}
    text = {key: ",".join(map(str, v)) if isinstance(v, list) else str(v).lower() for key, v in chosen.items()}
    return "".join(f"-{key}={re.sub(r'[^A-Za-z0-9_.,]+', '-', value).strip('-')}" for key, value in text.items())


def _rank(cls: type[Intervention]) -> tuple[int, int, str]:
    return FAMILIES.index(cls.family), BUILD_STAGES.index(cls.stage), _name(cls)


def _name(cls: type[Intervention]) -> str:
    return object.__new__(cls).name  # depends on the class alone; its arguments may not be known yet
