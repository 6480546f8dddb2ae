"""The picture of the four MinAtar games in docs/atari.md, as the films of a run show them.

Run:  python docs/screenshots_of_games.py
Needs the extras ``minatar`` and ``plot``. Of Atari there is no picture: its frames belong to others.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from plasticity_rl import make_env
from plasticity_rl.envs.films import film_frame

FILE = Path(__file__).parent / "images" / "minatar.png"
GAMES = ("space_invaders", "breakout", "seaquest", "freeway")
SCALE, GAP, STEPS = 24, 24, 60
"""Pixels of a cell and between boards, and env steps of random actions before the picture."""


def board(game: str) -> Image.Image:
    """Return one game after some env steps, enlarged without smoothing."""
    env = make_env(f"minatar:{game}", seed=1, action_repeat=1)
    torch.manual_seed(1)
    step = env.reset()
    for _ in range(STEPS):
        step = env.step_and_maybe_reset(env.rand_action(step))[1]
    pixels = film_frame(env, step["pixels"]).permute(1, 2, 0).numpy()
    return Image.fromarray(pixels).resize((SCALE * pixels.shape[1], SCALE * pixels.shape[0]), Image.Resampling.NEAREST)


def main() -> None:
    """Draw them side by side, in few colours."""
    boards = [board(game) for game in GAMES]
    width = sum(one.width for one in boards) + GAP * (len(boards) - 1)
    picture = Image.new("RGB", (width, boards[0].height), "white")
    left = 0
    for one in boards:
        picture.paste(one, (left, 0))
        left += one.width + GAP
    picture.quantize(16).save(FILE, optimize=True)


if __name__ == "__main__":
    main()
