"""Short names of arms: only what sets them apart, or what the user calls them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plasticity_rl.errors import UserError
from plasticity_rl.results.runs import Run

LATER = " from a later start"
"""Ends the names of settings that a run had otherwise at first."""


def label_of(
    run: Run, settings: Mapping[str, Any], others: Sequence[Mapping[str, Any]], elsewhere: Sequence[Run]
) -> str:
    """Name a run among others, in as few words as tell it apart.

    Its interventions are named, with arguments only where others have the same interventions with other arguments; on
    other tasks too, so that one name means one thing in a figure. Options are named where they differ on its task, and
    wherever a run went on with others than it had.

    Args:
        run: One of an arm.
        settings: All that its arm is defined by, flat.
        others: The same of the other arms of its task.
        elsewhere: A run of each other arm, of all tasks.
    """
    words = " + ".join(name for name, _ in run.interventions) or "no intervention"
    names = sorted(name for name, _ in run.interventions)
    twins = [other for other in elsewhere if sorted(name for name, _ in other.interventions) == names]
    if any(_comparable(other) != _comparable(run) for other in twins):
        words = " + ".join(_with_arguments(name, own, twins) for name, own in run.interventions) or words
    differing = {
        key: value
        for key, value in settings.items()
        if key != "interventions" and (key.endswith(LATER) or any(other.get(key) != value for other in others))
    }
    options = ", ".join(_option(key, value) for key, value in differing.items())
    return f"{words} ({options})" if options else words


def _option(key: str, value: Any) -> str:
    name = key.removesuffix(LATER).rpartition(".")[2]
    return f"{name} {value}{LATER}".lstrip() if key.endswith(LATER) else f"{name}={short(value)}"


def short(value: Any) -> str:
    """Write the value of an option short: 300k, 0.01, actor+critic, null."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, (list, tuple)):
        return "+".join(map(short, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if isinstance(value, int) and abs(value) >= size and value % (size // 100) == 0:
            return f"{value / size:g}{letter}"
    return str(value)


def chosen_labels(found: Sequence[str], chosen: Sequence[str]) -> dict[str, str]:
    """Return the label that each is replaced by.

    Args:
        found: Labels of the arms, each once.
        chosen: What the user calls them, in their order.

    Raises:
        UserError: When there are not as many, two are alike, or one is empty.
    """
    if len(chosen) != len(found):
        order = "; ".join(f"{number}. {label}" for number, label in enumerate(found, start=1))
        raise UserError(f"--labels: {_count(len(chosen), 'label')} for {_count(len(found), 'arm')}, which are: {order}")
    for label in chosen:
        if not label.strip():
            raise UserError("--labels: a label is empty; every arm needs a name")
        if chosen.count(label) > 1:
            raise UserError(
                f"--labels: {label!r} is there {chosen.count(label)} times; every arm needs a name of its own"
            )
    return dict(zip(found, chosen, strict=True))


def _with_arguments(name: str, own: Mapping[str, Any], others: Sequence[Run]) -> str:
    """Name an intervention with those arguments that other runs give it another value of."""
    theirs = [arguments for other in others for other_name, arguments in other.interventions if other_name == name]
    return with_other_arguments(name, own, theirs)


def with_other_arguments(name: str, own: Mapping[str, Any], theirs: Sequence[Mapping[str, Any]]) -> str:
    """Name an intervention with those arguments that one of ``theirs`` has otherwise."""
    shown = [f"{key}={short(value)}" for key, value in own.items() if any(a.get(key) != value for a in theirs)]
    return f"{name}({', '.join(shown)})" if shown else name


def _comparable(run: Run) -> list[str]:
    return sorted(repr(without_nulls(entry)) for entry in run.interventions)


def without_nulls(value: Any) -> Any:
    """Return options without those that are null, which configs of older versions leave out."""
    if isinstance(value, Mapping):
        return {key: without_nulls(one) for key, one in value.items() if one is not None}
    return type(value)(map(without_nulls, value)) if isinstance(value, list | tuple) else value


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
