"""What is refused about the callbacks of a run, before anything is trained; more is in ``agents/hook_checks.py``."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import BaseFinetuning, DeviceStatsMonitor, ModelCheckpoint

from plasticity_rl.agents.base import RLModule
from plasticity_rl.agents.hooks import RLCallback, fill_replay
from plasticity_rl.callback import Intervention, Probe, ScheduledIntervention
from plasticity_rl.errors import UserError, suggestion

UNSUITABLE = {
    "BatchSizeFinder": "tries batch sizes on a data set; give --data.batch_size",
    "LearningRateFinder": "needs a single optimizer, and agents have three; give --model.lr",
    "StochasticWeightAveraging": "needs a single optimizer, and agents have three; see callbacks.HareAndTortoise",
    "GradientAccumulationScheduler": "needs automatic optimization; give --data.batch_size",
    "BackboneFinetuning": "needs a module named backbone, which no agent has; see callbacks.FrozenEncoder",
    "BasePredictionWriter": "writes what Trainer.predict returns, and agents predict nothing; evaluate with validate",
    "ModelPruning": "renames weights, so that no run could go on from its checkpoints; see callbacks.PruneDormant",
    "SpikeDetection": "needs the loss that a training step returns, and agents return none; see --detect_nan",
}
"""Callbacks of Lightning that cannot work here, with the reason and what to do instead; their subclasses neither."""
MONITORED = ("eval/return", "eval/return_std", "env_frames", "epoch", "step")
"""What agents log through Lightning, for ``monitor``."""
_TAG_IN_FILENAME = re.compile(r"\{([^}:]+)[^}]*\}")
BASES = ("plasticity_rl.callback.", "plasticity_rl.agents.hooks")
"""Modules of the classes that callbacks derive from."""
KNOWN_PACKAGES = ("plasticity_rl.", "callbacks.", "lightning.")


def refuse_no_callbacks(given: Iterable[Any]) -> None:
    """Raise UserError for what is no callback: a class that was not called, a name."""
    for one in given:
        if isinstance(one, type) and issubclass(one, pl.Callback):
            raise UserError(f"callbacks has the class {one.__name__}: give an instance, {one.__name__}(...)")
        if not isinstance(one, pl.Callback):
            raise UserError(
                f"callbacks has {one!r}, which is no callback: give instances, such as callbacks.Reset(...), and no "
                "names, which are for the command line"
            )


def refuse_unsuitable(callbacks: Sequence[pl.Callback]) -> None:
    """Raise UserError for Lightning's callbacks that need another kind of training, or watch what is never logged.

    The same for names of files. A callback of the user's own may log anything, so beside one of those every name is
    accepted.
    """
    for callback in callbacks:
        if type(callback) is pl.Callback or type(callback).__module__.startswith(BASES):
            raise UserError(
                f"{type(callback).__name__} is a base for callbacks of your own and does nothing by itself; give one "
                "that derives from it (plasticity-rl list callbacks)"
            )
    own = any(not type(callback).__module__.startswith(KNOWN_PACKAGES) for callback in callbacks)
    for callback in callbacks:
        name = type(callback).__name__
        for base in type(callback).__mro__:
            if base.__name__ in UNSUITABLE and base.__module__.startswith("lightning."):
                kind = "" if base.__name__ == name else f", a {base.__name__},"
                raise UserError(f"{name}{kind} {UNSUITABLE[base.__name__]}; remove it from trainer.callbacks")
        if type(callback) is BaseFinetuning:
            raise UserError("BaseFinetuning is a base to subclass, and freezes nothing; see callbacks.FrozenEncoder")
        _refuse_other_times(callback)
        _refuse_without_psutil(callback)
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str) and monitor not in MONITORED and not own:
            raise UserError(
                f"{name}.monitor={monitor!r} is not logged through Lightning, whatever TensorBoard shows, so that "
                f"nothing can monitor it; there are {list(MONITORED)}."
                f"{suggestion(monitor, MONITORED)}"
            )
        for tag in _TAG_IN_FILENAME.findall(str(getattr(callback, "filename", None) or "")) if not own else ():
            if tag not in MONITORED:
                raise UserError(
                    f"{name}.filename: {{{tag}}} is not logged through Lightning, whatever TensorBoard shows, so that "
                    f"every file would have 0 there; there are {list(MONITORED)}.{suggestion(tag, MONITORED)}"
                )


def _refuse_other_times(callback: pl.Callback) -> None:
    """Refuse checkpoints by the steps of optimizers, or by the clock, which Lightning asks for automatic steps only."""
    if not isinstance(callback, ModelCheckpoint):
        return
    for name, why in (
        ("every_n_train_steps", "counts the steps of all optimizers, several per update"),
        ("train_time_interval", "never saves with optimizers that agents step themselves"),
    ):
        if value := getattr(callback, f"_{name}", None):
            raise UserError(
                f"{type(callback).__name__}.{name}={value} {why}; leave it out: checkpoints are written after "
                "evaluations (--data.eval_every_n_frames), and save_top_k=-1 keeps all of them"
            )


def _refuse_without_psutil(callback: pl.Callback) -> None:
    """Refuse in a line what Lightning notices when the run is set up."""
    if not isinstance(callback, DeviceStatsMonitor) or importlib.util.find_spec("psutil") is not None:
        return
    of_processor = callback._cpu_stats
    if of_processor or (of_processor is None and not torch.cuda.is_available()):
        raise UserError(
            f"{type(callback).__name__} reads the processor with psutil, which is not installed: "
            "pip install psutil, or give cpu_stats: false"
        )


def refuse_bad_lists(callbacks: Iterable[pl.Callback]) -> None:
    """Raise UserError when a callback is given no modules, so that it would do nothing, or one thing twice."""
    for callback in callbacks:
        arguments = callback.arguments() if isinstance(callback, RLCallback) else {}
        for name in ("modules", "taus", "at_frames"):
            items = list(arguments.get(name) or [])
            if twice := [item for item in items if items.count(item) > 1]:
                raise UserError(f"{type(callback).__name__}.{name}={items} lists {twice[0]} twice; remove one")
        modules = arguments.get("modules")
        if isinstance(modules, list | tuple) and not modules:
            raise UserError(
                f"{type(callback).__name__}.modules=[] names no module, so it would do nothing: list some, or leave it "
                "out for the default"
            )


def late_events(callbacks: Iterable[pl.Callback], max_frames: int, frames_per_step: int = 1) -> list[str]:
    """Return a line for every callback with an event at a frame that the run does not get past, so that it never acts.

    The command line refuses such a frame, which is a slip there. A program may schedule beyond the end of a run, and is
    told; a period longer than the run is no event.

    Args:
        callbacks: Callbacks of the run.
        max_frames: Env frames at which it ends, with an evaluation.
        frames_per_step: Env frames of its last env step, in which nothing acts that waits for that evaluation.
    """
    found = []
    for callback in callbacks:
        if not isinstance(callback, ScheduledIntervention):
            continue
        end = max_frames - (frames_per_step if callback.waits_for_evaluation else 0)
        late = [frame for frame in callback.events.at if frame >= end]
        if late:
            option = "at_frame" if "at_frame" in callback.arguments() else "at_frames"
            found.append(
                f"{type(callback).__name__}.{option}: an event at frame {late[0]} never happens in a run of "
                f"max_frames={max_frames}; list earlier frames, or raise --max_frames above {late[-1]}"
            )
    return found


def idle_run(callbacks: Iterable[pl.Callback], max_frames: int, num_seed_frames: int) -> list[str]:
    """Return a line when a run ends before its first gradient update; the command line refuses that too.

    Args:
        callbacks: Callbacks of the run; one that fills the replay may need no seed phase.
        max_frames: Env frames at which it ends.
        num_seed_frames: Env frames of random actions at its start.
    """
    if fill_replay(callbacks) or max_frames > num_seed_frames:
        return []
    return [
        f"max_frames={max_frames} ends in the seed phase (model.num_seed_frames={num_seed_frames} of random actions), "
        f"so the agent would never learn: raise --max_frames above {num_seed_frames}, or lower --model.num_seed_frames"
    ]


def idle_schedules(callbacks: Iterable[pl.Callback], agent: RLModule) -> list[str]:
    """Return one line for every intervention or probe whose period is too long for the run, so that it does nothing.

    No error, since such a run is a control; but with a fragment that was written for a longer run it is a slip.

    Args:
        callbacks: Callbacks of the run.
        agent: Attached to the run. Its replay ratio says how many gradient updates there will be, unless one of the
            callbacks changes that.
    """
    ours = [callback for callback in callbacks if isinstance(callback, (Intervention, Probe))]
    ends: dict[str, float] = {"frames": agent.data.max_frames}
    families = {callback.family for callback in ours if isinstance(callback, Intervention)}
    if not families & {"replay_ratio", "experience"}:
        env_steps = (agent.data.max_frames - agent.num_seed_frames) / agent.data.action_repeat
        ends["updates"] = env_steps * agent.replay_ratio
    notes = []
    for callback in ours:
        arguments = callback.arguments()
        for unit, end in ends.items():
            period = arguments.get(f"every_n_{unit}")
            if period is None or arguments.get("at_frames"):
                continue
            option = f"{type(callback).__name__}.every_n_{unit}={period}"
            length = f"this run, which has {end:.0f} {unit}"
            if isinstance(callback, Probe):
                notes += [f"{option} is longer than {length}: it never measures"] if period > end else []
            elif period >= end:
                notes.append(f"{option} is not shorter than {length}: it never acts")
    return notes
