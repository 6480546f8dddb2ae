"""What a film of an episode shows of each observation."""

from __future__ import annotations

import torch
from torchrl.envs import EnvBase, TransformedEnv


def film_frame(env: EnvBase, pixels: torch.Tensor) -> torch.Tensor:
    """Return a picture in colour: the screen of a game, or the newest frame of an observation.

    Args:
        env: A single environment.
        pixels: What it shows now, uint8 (channels, height, width).

    Returns:
        uint8 (3, height, width); of a game at the size of its screen.
    """
    while isinstance(env, TransformedEnv):  # it forwards unknown attributes to what it wraps
        env = env.base_env
    if hasattr(env, "colour_frame"):
        return torch.from_numpy(env.colour_frame().transpose(2, 0, 1).copy())
    return pixels[-3:].clone()
