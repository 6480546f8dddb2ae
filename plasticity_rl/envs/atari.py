"""One Atari 2600 game as a TorchRL base environment that goes on exactly from a snapshot.

Done here and not by the emulator or TorchRL, because neither can be restored in the middle or is right for pixels:
frame skip with the maximum of the last two frames, the mean over areas of 84 x 84, no-op starts, sticky actions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from plasticity_rl.envs.atari_emulator import Emulator
from plasticity_rl.envs.atari_frames import AreaResize, brightest
from plasticity_rl.envs.games import GameEnv, Played
from plasticity_rl.envs.snapshots import decode, encode

if TYPE_CHECKING:
    from plasticity_rl.envs.atari_options import AtariOptions

NOOP = 0


class AtariEnv(GameEnv):
    """One game, single gray frames.

    :class:`~plasticity_rl.envs.atari_options.AtariOptions` documents keys and options.

    Args:
        options: What to play, and how.
        seed: Seed of the no-op starts and the sticky actions.

    Raises:
        UserError: When ale-py is missing.
    """

    def __init__(self, options: AtariOptions, *, seed: int) -> None:
        emulator = Emulator(options.task, options.game)
        codes = emulator.all_actions if options.full_actions else emulator.minimal_actions
        super().__init__(
            options.task,
            action_repeat=options.action_repeat,
            max_episode_frames=options.max_episode_frames,
            pixels_shape=(1, options.image_size, options.image_size),
            num_actions=len(codes),
        )
        self._options, self._emulator, self._codes = options, emulator, codes
        self._resize = AreaResize(emulator.height, emulator.width, options.image_size)
        self._random = np.random.RandomState(seed)
        self._held, self._lives = NOOP, 0

    def _set_seed(self, seed: int | None) -> None:
        """Replace the generator. Nothing is reset: the next reset is the first that draws from it."""
        if seed is not None:
            self._random = np.random.RandomState(seed)

    def _start(self) -> np.ndarray:
        self._emulator.reset()
        for _ in range(self._options.draw_noops(self._random)):
            self._emulator.act(NOOP)
            if self._emulator.over:
                self._emulator.reset()
        self._held, self._lives = NOOP, self._emulator.lives
        return self._seen([self._emulator.gray()])

    def _play(self, action: int, frames: int) -> Played:
        reward, played, over, lost_life = 0.0, 0, False, False
        screens: list[np.ndarray] = []
        while played < frames and not over:
            if self._options.sticky == 0 or self._random.random_sample() >= self._options.sticky:
                self._held = self._codes[action]
            reward += self._emulator.act(self._held)
            lives, over = self._emulator.lives, self._emulator.over
            lost_life, self._lives = lost_life or lives < self._lives, lives
            played += 1
            if played > frames - 2 or over:
                screens.append(self._emulator.gray())
        return Played(self._seen(screens), reward, played, over, lost_life and self._options.life_loss)

    def _seen(self, screens: list[np.ndarray]) -> np.ndarray:
        return self._resize(brightest(screens))[None]

    def colour_frame(self) -> np.ndarray:
        """Return the screen as it is now, uint8 RGB (210, 160, 3); of some games 250 high."""
        return self._emulator.rgb()

    def _game_state(self) -> dict[str, Any]:
        own = {"held": self._held, "lives": self._lives, "random": encode(self._random)}
        return {**own, **self._emulator.state()}

    def _load_game_state(self, state: dict[str, Any]) -> None:
        self._held, self._lives, self._random = state["held"], state["lives"], decode(state["random"])
        self._emulator.load_state(state)
