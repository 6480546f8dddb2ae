"""Environments that cannot be saved in the middle of an episode: refused, or let run with a word about it."""

from __future__ import annotations

from plasticity_rl.errors import UserError


def refuse_not_exact(task: str, reason: str) -> None:
    """Do nothing where there is no reason.

    Args:
        task: Name of the task.
        reason: Why its environments cannot be saved, or an empty string.

    Raises:
        UserError: With the reason, and what to do.
    """
    if reason:
        raise UserError(
            f"data.exact_resume: the environments of task={task} cannot be saved in mid-episode ({reason}), so "
            "that a resumed run would not equal one that was not stopped: give them these methods, or run with "
            "--data.exact_resume false, in which a resumed run begins new episodes"
        )


def said_at_start(reason: str, *, new_episodes: bool) -> str:
    """Return what a start says about environments that cannot be saved.

    Args:
        reason: Why they cannot, or an empty string.
        new_episodes: Whether this start went on from a checkpoint without them.
    """
    if new_episodes:
        return "not exact: the environments could not be saved, so that this start began new episodes"
    if not reason:
        return ""
    return (
        f"not exact if resumed: the environments cannot be saved ({reason}), so that a resumed run begins new episodes "
        "(data.exact_resume=false)"
    )
