"""What no agent can be made with: learning rates, shapes of observations, networks that no memory holds."""

from __future__ import annotations

from collections.abc import Mapping

from plasticity_rl.errors import UserError
from plasticity_rl.machine.capacity import largest_memory, show_bytes

LEARNING_RATES = "(0, 1]"
"""Adam moves every weight by up to this much per update, and weights begin below 1."""
TRAINED_COPIES, OTHER_COPIES = 4, 1
"""Numbers kept for a weight: itself, its gradient and Adam's two moments; of a target network itself only."""


def refuse_shape(obs_shape: tuple[int, ...]) -> None:
    """Raise UserError for observations that are neither images nor states."""
    if len(obs_shape) not in (1, 3):
        raise UserError(f"obs_shape={tuple(obs_shape)} must be (channels, height, width) of images or (n,) of states")


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
