"""One Atari 2600 game as a TorchRL base environment that goes on exactly from a snapshot.

Done here and not by the emulator or TorchRL, because neither can be restored in the middle or is right for pixels:
frame skip with the maximum of the last two frames, the mean over areas of 84 x 84, no-op starts, sticky actions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from plasticity_rl.envs.atari_emulator import Emulator
from plasticity_rl.envs.atari_frames import AreaResize, brightest
from plasticity_rl.envs.games import GameEnv, Played
from plasticity_rl.envs.snapshots import decode, encode

NOOP = 0


def draw_noops(random: np.random.RandomState, noops: int, unit: str, action_repeat: int) -> int:
    """Return how many frames of nothing a game begins with; draws one number, or none where there are no no-ops.

    Args:
        random: What to draw from.
        noops: Largest number; 0 for none.
        unit: ``frames``: 1 to ``noops`` frames (DQN Zoo); ``env_steps``: 0 to ``noops`` - 1 env steps (Dopamine).
        action_repeat: Frames per env step.
    """
    if not noops:
        return 0
    return random.randint(1, noops + 1) if unit == "frames" else random.randint(noops) * action_repeat


class AtariEnv(GameEnv):
    """One game, single gray frames.

    ``AtariOptions`` documents the keys.

    Args:
        task: Name of the task.
        game: Name of the game.
        seed: Seed of the no-op starts and the sticky actions.
        action_repeat: Emulator frames per env step.
        image_size: Height and width of a frame in pixels.
        full_actions: Whether to offer all 18 actions.
        sticky: Probability, at every frame, that the action of the frame before goes on.
        noops: Largest number of no-ops at a start.
        noop_unit: ``frames`` or ``env_steps``, as :func:`draw_noops` says.
        life_loss: Whether the discount is 0 where a life is lost.
        max_episode_frames: Emulator frames after the no-ops at which an episode is truncated.

    Raises:
        UserError: When ale-py is missing.
    """

    def __init__(
        self,
        *,
        task: str,
        game: str,
        seed: int,
        action_repeat: int,
        image_size: int,
        full_actions: bool,
        sticky: float,
        noops: int,
        noop_unit: str,
        life_loss: bool,
        max_episode_frames: int,
    ) -> None:
        emulator = Emulator(task, game)
        codes = emulator.all_actions if full_actions else emulator.minimal_actions
        super().__init__(
            task,
            action_repeat=action_repeat,
            max_episode_frames=max_episode_frames,
            pixels_shape=(1, image_size, image_size),
            action_codes=codes,
        )
        self._emulator = emulator
        self._sticky, self._life_loss, self._noops, self._noop_unit = sticky, life_loss, noops, noop_unit
        self._resize = AreaResize(emulator.height, emulator.width, image_size)
        self._random = np.random.RandomState(seed)
        self._held, self._lives = NOOP, 0

    def _set_seed(self, seed: int | None) -> None:
        """Replace the generator. Nothing is reset: the next reset is the first that draws from it."""
        if seed is not None:
            self._random = np.random.RandomState(seed)

    def _start(self) -> np.ndarray:
        self._emulator.reset()
        for _ in range(draw_noops(self._random, self._noops, self._noop_unit, self.action_repeat)):
            self._emulator.act(NOOP)
            if self._emulator.over:
                self._emulator.reset()
        self._held, self._lives = NOOP, self._emulator.lives
        return self._seen([self._emulator.gray()])

    def _play(self, action: int, frames: int) -> Played:
        reward, played, over, lost_life = 0.0, 0, False, False
        screens: list[np.ndarray] = []
        while played < frames and not over:
            if self._sticky == 0 or self._random.random_sample() >= self._sticky:
                self._held = self.action_codes[action]
            reward += self._emulator.act(self._held)
            lives, over = self._emulator.lives, self._emulator.over
            lost_life, self._lives = lost_life or lives < self._lives, lives
            played += 1
            if played > frames - 2 or over:
                screens.append(self._emulator.gray())
        return Played(self._seen(screens), reward, played, over, lost_life and self._life_loss)

    def _seen(self, screens: list[np.ndarray]) -> np.ndarray:
        return self._resize(brightest(screens))[None]

    def colour_frame(self) -> np.ndarray:
        """Return the screen as it is now, uint8 RGB (210, 160, 3); of some games up to 250 high."""
        return self._emulator.rgb()

    def _game_state(self) -> dict[str, Any]:
        own = {"held": self._held, "lives": self._lives, "random": encode(self._random)}
        return {**own, **self._emulator.state()}

    def _load_game_state(self, state: dict[str, Any]) -> None:
        self._held, self._lives, self._random = state["held"], state["lives"], decode(state["random"])
        self._emulator.load_state(state)
