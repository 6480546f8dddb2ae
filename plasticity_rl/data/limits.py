"""Upper limits of numbers, each with its reason, and what no memory can hold: asked before anything is allocated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from plasticity_rl.errors import UserError
from plasticity_rl.machine.capacity import available_memory, show_bytes

if TYPE_CHECKING:
    from plasticity_rl.data.module import RLDataModule

MAX_IMAGE_SIZE = 4096
"""Pixels. There a frame buffer of MuJoCo takes 1.9 GB (112 bytes a pixel, measured with Mesa, which draws 8192 pixels
too but not 16384), and the published agent 240 GB of weights, gradients and moments."""
MAX_NUM_ENVS = 1024
"""Environments of one process; they are stepped one after the other, so that more of them win nothing."""
MAX_EVAL_EPISODES = 10_000
"""Episodes of one evaluation: ten million env frames, three times the longest published run."""
MAX_LR = 1.0
"""Adam moves every weight by up to this much per update, and weights begin below 1."""
TRAINED_COPIES, OTHER_COPIES = 4, 1
"""Numbers kept for a weight: itself, its gradient and Adam's two moments; of a target network itself only."""


def refuse_bad_data_numbers(data: RLDataModule) -> None:
    """Raise UserError for arguments of a data module that are out of range."""
    names = ("action_repeat", "frame_stack", "image_size", "num_envs", "n_step", "batch_size", "capacity", "max_frames")
    if data.observation not in ("pixels", "state"):
        raise UserError(f"data.observation={data.observation!r} must be 'pixels' or 'state'")
    for name in (*names, "eval_every_n_frames", "num_eval_episodes", "resumable_epochs"):
        if getattr(data, name) < 1:
            raise UserError(f"data.{name}={getattr(data, name)} must be a whole number >= 1")
    if not 0 <= data.discount <= 1:
        raise UserError(f"data.discount={data.discount} must be in [0, 1]; the published value is 0.99")
    if data.replay_dir is not None and not str(data.replay_dir).strip():
        raise UserError("data.replay_dir='' names no folder; give one, or leave it out for replay/ in the run folder")
    reasons = {
        "num_envs": (MAX_NUM_ENVS, "they are stepped one after the other, so more of them win nothing"),
        "num_eval_episodes": (MAX_EVAL_EPISODES, "an evaluation would be longer than the longest published runs"),
    }
    if data.observation == "pixels":
        reasons["image_size"] = (MAX_IMAGE_SIZE, "neither frame buffers nor networks go much beyond; published: 84")
    for name, (largest, reason) in reasons.items():
        refuse_above(f"data.{name}", getattr(data, name), largest, reason)
    if (tick := data.action_repeat * data.num_envs) > data.max_frames:
        raise UserError(
            f"data.num_envs={data.num_envs} * data.action_repeat={data.action_repeat} = {tick} env frames are one step "
            f"of all environments, more than the run has (max_frames={data.max_frames}): lower them, or raise it"
        )
    if data.observation == "pixels":  # before such images are drawn
        refuse_large_batch(data.batch_size, 3 * data.frame_stack * data.image_size**2, "data.batch_size")


def refuse_large_batch(batch_size: int, observation_bytes: int, option: str) -> None:
    """Raise UserError when the observations of one batch, before and after each transition, exceed all memory.

    Args:
        batch_size: Transitions of the batch.
        observation_bytes: Bytes of one observation, as it is stored.
        option: What the batch size is called.
    """
    num_bytes, memory = 2 * batch_size * observation_bytes, largest_memory()
    if memory is not None and num_bytes > memory:
        raise UserError(
            f"{option}={batch_size}: the observations of one batch alone take {show_bytes(num_bytes)}, but "
            f"{show_bytes(memory)} of memory are available: lower it, --data.image_size or --data.frame_stack"
        )


def refuse_large_batches(callbacks: Iterable[Any], observation_bytes: int) -> None:
    """Raise UserError when memory cannot hold the batch of a callback's own (its argument ``batch_size``)."""
    for callback in callbacks:
        if isinstance(batch_size := getattr(callback, "batch_size", None), int):
            refuse_large_batch(batch_size, observation_bytes, f"{type(callback).__name__}.batch_size")


def refuse_large_networks(trained: int, others: int, widths: Mapping[str, int], published: str) -> None:
    """Raise UserError when weights, gradients, Adam's moments and target networks in float32 exceed all memory.

    Args:
        trained: Parameters that are trained.
        others: Parameters of target networks.
        widths: What the sizes follow from, by the name of the option without ``model.``.
        published: The published values of those, for the message.
    """
    num_bytes = 4 * (TRAINED_COPIES * trained + OTHER_COPIES * others)
    memory = largest_memory()
    if memory is not None and num_bytes > memory:
        given = ", ".join(f"model.{name}={value}" for name, value in widths.items())
        raise UserError(
            f"{given}: networks of {trained} parameters take {show_bytes(num_bytes)} with gradients, Adam's moments "
            f"and target, but {show_bytes(memory)} of memory are available: lower them (published: {published})"
        )


def largest_memory() -> int | None:
    """Return the bytes that are available in memory, or in all of the largest GPU, or None where nobody tells."""
    found = [memory] if (memory := available_memory()) is not None else []
    if found and torch.cuda.is_available():
        devices = range(torch.cuda.device_count())
        found += [torch.cuda.get_device_properties(device).total_memory for device in devices]
    return max(found, default=None)


def refuse_above(option: str, value: float, largest: float, reason: str) -> None:
    """Raise UserError when ``value`` is more than ``largest``, with the reason for the limit."""
    if value > largest:
        raise UserError(f"{option}={value} must be at most {largest}: {reason}")
