"""Compares the options of a run with those of its checkpoint, by the table in ``resume_rules.py``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, replace
from typing import Any

from plasticity_rl.agents.hooks import RLCallback, callbacks_of
from plasticity_rl.agents.options import RECORD, default_options, saved_options
from plasticity_rl.agents.resume_callbacks import callback_changes, move_states
from plasticity_rl.agents.resume_rules import Change, Rule, rule_of, show
from plasticity_rl.agents.spelling import same
from plasticity_rl.data.ticks import recount
from plasticity_rl.errors import UserError

Agent = Any
"""An :class:`plasticity_rl.RLModule`, which is built on this file."""


def accept(agent: Agent, options: Mapping[str, Any], checkpoint: dict[str, Any]) -> list[Change]:
    """Return the options that are applied to a run which goes on, having made the checkpoint ready for them.

    What takes effect by itself (it is not in the checkpoint) is left alone; learning rates are written into the saved
    states of the optimizers, callbacks find theirs, and the ticks of the epoch are counted in ticks of another length.

    Args:
        agent: In a Trainer.
        options: Of this run, by their full name.
        checkpoint: That it goes on with, edited in place; of this rank.

    Raises:
        UserError: Naming the options that cannot change in a run that has begun.
    """
    changes = changes_since(agent, options, checkpoint)
    refuse(changes)
    move_states(checkpoint, callbacks_of(agent.trainer), _folder(checkpoint))
    if any(change.option == "model.lr" for change in changes):
        _set_learning_rates(agent, checkpoint)
    now, done = agent.data.env_steps_per_tick, checkpoint["rl"]["env_frames"] // agent.data.frames_per_step
    before = next((change.old for change in changes if change.option == "data.env_steps_per_tick"), now)
    if "loops" in checkpoint:  # else Lightning refuses it: it holds weights only
        agent.begin_with_tick(recount(checkpoint["loops"], env_steps=done, before=before, now=now))
    return changes


def changes_since(agent: Agent, options: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> list[Change]:
    """Return everything in which a run in a Trainer differs from its checkpoint, refused or not."""
    folder = _folder(checkpoint)
    old = saved_options(checkpoint, type(agent.data).__qualname__)
    defaults = default_options(agent)
    if RECORD not in checkpoint:  # written before there was such an entry: only the agent's were recorded
        known = bool(checkpoint.get("hyper_parameters"))
        defaults = {name: value for name, value in defaults.items() if known and name.startswith("model.")}
        defaults.pop("model.augmentations", None)
    changes = []
    for name, value in options.items():
        before, rule = old.get(name, defaults.get(name, MISSING)), rule_of(name)
        if before is MISSING or rule.verdict == "own" or same(before, value, folder):
            continue
        if name != "init_weights" or value is not None:  # those of the checkpoint's beginning are in it
            changes.append(Change(name, before, value, rule))
    callbacks = callbacks_of(agent.trainer)
    return [_unless_set(change, agent) for change in changes] + callback_changes(checkpoint, callbacks, folder)


def _folder(checkpoint: Mapping[str, Any]) -> str:
    """Return where relative paths in a checkpoint start."""
    return str(checkpoint.get(RECORD, {}).get("folder", os.getcwd()))


def _unless_set(change: Change, agent: Agent) -> Change:
    """Refuse another value for what a callback of the run sets: it would hold until that acts, or not at all."""
    for callback in callbacks_of(agent.trainer):
        if isinstance(callback, RLCallback):
            attributes = {f"model.{name}" for name in callback.mutates(agent).attributes}
            if change.option in attributes:
                return replace(change, rule=Rule("refused", f"{type(callback).__name__} sets it while the run goes on"))
    return change


def refuse(changes: Iterable[Change]) -> None:
    """Do nothing where all changes are applied.

    Raises:
        UserError: With the options that are refused, both values, the reason, and what to do.
    """
    refused = [change for change in changes if change.rule.verdict == "refused"]
    if not refused:
        return
    first, *others = refused
    if first.old is None and first.new is None:
        what = f"{first.name} since the checkpoint was written"
    else:
        old, new = show(first.old), show(first.new)
        what = f"the checkpoint was written with {first.name}={old}, but this run has {new}"
    also = f" (also: {'; '.join(map(str, others))})" if others else ""
    raise UserError(
        f"{what}: {first.rule.why}{also}; leave it as it was, or start a new run, to which --init_weights gives the "
        "weights of a checkpoint"
    )


def _set_learning_rates(agent: Agent, checkpoint: Mapping[str, Any]) -> None:
    """Write the learning rates that new optimizers of the agent have into the saved ones."""
    for optimizer, state in zip(agent.configure_optimizers(), checkpoint["optimizer_states"], strict=True):
        for fresh, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
            saved["lr"] = fresh["lr"]
