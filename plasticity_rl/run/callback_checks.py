"""What is refused about the callbacks of a run, before anything is trained."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import lightning.pytorch as pl
from lightning.pytorch.utilities.model_helpers import is_overridden

from plasticity_rl.callback.bases import Intervention, Probe, RLCallback, ScheduledIntervention
from plasticity_rl.errors import UserError, suggestion

if TYPE_CHECKING:
    from plasticity_rl.agents.base import RLModule


UNSUITABLE = {
    "BatchSizeFinder": "tries batch sizes on a data set; give --data.batch_size",
    "LearningRateFinder": "needs a single optimizer, and agents have three; give --model.lr",
    "StochasticWeightAveraging": "needs a single optimizer, and agents have three; see callbacks.HareAndTortoise",
    "GradientAccumulationScheduler": "needs automatic optimization; give --data.batch_size",
}
"""Callbacks of Lightning that cannot work here, with the reason and what to do instead."""
MONITORED = ("eval/return", "eval/return_std", "env_frames", "epoch", "step")
"""What agents log through Lightning, for ``monitor``."""
KNOWN_PACKAGES = ("plasticity_rl.", "callbacks.", "lightning.")


def refuse_conflicts(agent: RLModule, interventions: Sequence[Intervention]) -> None:
    """Raise UserError naming the first two of ``interventions`` that cannot run together on ``agent``, and why."""
    for one, two in itertools.permutations(interventions, 2):
        reason = one.conflict_with(agent, two)
        if reason is not None:
            raise UserError(f"{type(one).__name__} cannot run beside {type(two).__name__}: {reason}")


def refuse_shared_tags(callbacks: Iterable[RLCallback]) -> None:
    """Raise UserError naming the first two that would write one tag, each over what the other wrote, and what differs.

    Args:
        callbacks: All of a run, resolved: see :meth:`RLCallback.resolve`.
    """
    for one, two in itertools.combinations(callbacks, 2):
        shared = sorted(one.tags() & two.tags())
        if shared:
            alike = type(one) is type(two)
            kinds = f"two {type(one).__name__}" if alike else f"{type(one).__name__} and {type(two).__name__}"
            theirs = two.arguments()
            other = [f"{k}={v} and {theirs[k]}" for k, v in one.arguments().items() if k in theirs and v != theirs[k]]
            raise UserError(
                f"{kinds} (with {', '.join(other) or 'equal arguments'}) would both write {shared[0]!r}, one over the "
                "other; remove one, or name other modules in it"
            )


def refuse_without_pixels(callbacks: Iterable[RLCallback], observation_key: str) -> None:
    """Raise UserError naming the first callback that needs images, unless that is what the agent observes."""
    for callback in callbacks:
        if callback.needs_pixels and observation_key != "pixels":
            raise UserError(
                f"{type(callback).__name__} works on images, but this run observes the {observation_key}; "
                "leave it out, or use --data.observation pixels"
            )


def refuse_unsuitable(callbacks: Sequence[pl.Callback]) -> None:
    """Raise UserError for Lightning's callbacks that need another kind of training, or watch what is never logged.

    A callback of the user's own may log anything, so beside one of those every name is accepted.
    """
    own = any(not type(callback).__module__.startswith(KNOWN_PACKAGES) for callback in callbacks)
    for callback in callbacks:
        name = type(callback).__name__
        if name in UNSUITABLE:
            raise UserError(f"{name} {UNSUITABLE[name]}; remove it from trainer.callbacks")
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str) and monitor not in MONITORED and not own:
            raise UserError(
                f"{name}.monitor={monitor!r} is never logged; there are {list(MONITORED)}."
                f"{suggestion(monitor, MONITORED)}"
            )


def refuse_doubles(callbacks: Iterable[pl.Callback]) -> None:
    """Raise UserError when two callbacks that keep a state are equal in class and arguments.

    To be called before the Trainer is built, which would raise a longer error of its own.
    """
    seen: set[str] = set()
    for callback in callbacks:
        if isinstance(callback, RLCallback) or is_overridden("state_dict", callback):
            if callback.state_key in seen:
                raise UserError(f"{type(callback).__name__} is given twice with the same arguments; remove one of them")
            seen.add(callback.state_key)


def refuse_late_events(callbacks: Iterable[pl.Callback], max_frames: int, frames_per_tick: int = 1) -> None:
    """Raise UserError when an event is listed for a frame that the run does not get past, so that it never acts.

    The command line does so, where such a frame is a slip. A program may schedule beyond the end of a run, and nothing
    happens; a period longer than the run is no event either.

    Args:
        callbacks: Callbacks of the run.
        max_frames: Env frames at which it ends, with an evaluation.
        frames_per_tick: Env frames of its last env step, in which nothing acts that waits for that evaluation.
    """
    for callback in callbacks:
        if not isinstance(callback, ScheduledIntervention):
            continue
        end = max_frames - (frames_per_tick if callback.waits_for_evaluation else 0)
        late = [frame for frame in callback.events.at if frame >= end]
        if late:
            option = "at_frame" if "at_frame" in callback.arguments() else "at_frames"
            raise UserError(
                f"{type(callback).__name__}.{option}: an event at frame {late[0]} never happens in a run of "
                f"max_frames={max_frames}; list earlier frames, or raise --max_frames above {late[-1]}"
            )


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
