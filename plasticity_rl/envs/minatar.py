"""One MinAtar game as a TorchRL base environment that goes on exactly from a snapshot."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np

from plasticity_rl.envs.extras import MINATAR
from plasticity_rl.envs.games import GameEnv, Played
from plasticity_rl.envs.minatar_games import CHANNELS, SIDE
from plasticity_rl.envs.snapshots import decode, encode

ALL_ACTIONS = tuple(range(6))
COLOURS = np.array(
    [
        (0, 0, 0), (86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167),
        (0, 114, 178), (255, 255, 255), (150, 150, 150), (170, 110, 40),
    ],
    np.uint8,
)  # fmt: skip
"""Of the ground and of the ten channels: Okabe and Ito's, which everybody can tell apart, and three more."""


@contextlib.contextmanager
def _without_warning() -> Iterator[None]:
    """Keep MinAtar's import from warning through the root logger, which gets a handler of it, that it cannot draw."""
    handlers, level = logging.root.handlers[:], logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
        logging.root.handlers[:] = handlers


class MinAtarEnv(GameEnv):
    """One game.

    ``MinAtarOptions`` documents the keys.

    Args:
        task: Name of the task.
        game: Name of the game.
        seed: Seed of the game and its sticky actions.
        action_repeat: Game frames per env step.
        channels: Channels of an observation, None for the game's own.
        full_actions: Whether to offer all 6 actions.
        sticky: Probability, at every frame, that the action of the frame before goes on.
        difficulty_ramping: Whether some games become harder with time.
        max_episode_frames: Game frames at which an episode is truncated.

    Raises:
        UserError: When minatar is missing.
    """

    def __init__(
        self,
        *,
        task: str,
        game: str,
        seed: int,
        action_repeat: int,
        channels: int | None,
        full_actions: bool,
        sticky: float,
        difficulty_ramping: bool,
        max_episode_frames: int,
    ) -> None:
        with _without_warning():
            minatar = MINATAR.load(task)
        played = minatar.Environment(game, sticky_action_prob=sticky, difficulty_ramping=difficulty_ramping)
        codes = ALL_ACTIONS if full_actions else tuple(played.minimal_action_set())
        shown = channels or CHANNELS[game]
        super().__init__(
            task,
            action_repeat=action_repeat,
            max_episode_frames=max_episode_frames,
            pixels_shape=(shown, SIDE, SIDE),
            action_codes=codes,
        )
        self._game, self._channels = played, shown
        played.seed(seed)
        played.reset()  # the first was with a generator that nobody seeded

    def _set_seed(self, seed: int | None) -> None:
        """Replace the generator. Nothing is reset: the next frame is the first that draws from it."""
        self._game.seed(seed)

    def _start(self) -> np.ndarray:
        self._game.reset()
        self._game.last_action = 0  # its reset leaves the action that may stick as the episode before had it
        return self._seen()

    def _play(self, action: int, frames: int) -> Played:
        reward, played, over = 0.0, 0, False
        while played < frames and not over:
            score, over = self._game.act(self.action_codes[action])
            reward, played = reward + score, played + 1
        return Played(self._seen(), reward, played, bool(over))

    def _seen(self) -> np.ndarray:
        own = self._game.state().transpose(2, 0, 1).astype(np.uint8) * np.uint8(255)
        return np.concatenate([own, np.zeros((self._channels - len(own), SIDE, SIDE), np.uint8)])

    def colour_frame(self) -> np.ndarray:
        """Return the board as it is now, uint8 RGB (10, 10, 3); of things in one place the last channel's."""
        state = self._game.state()
        numbers = np.arange(1, state.shape[2] + 1)
        return COLOURS[(state * numbers).max(axis=2)]

    def _game_state(self) -> dict[str, Any]:
        # A table of channels is the one attribute that is no plain value, and does not change.
        values = {name: value for name, value in vars(self._game.env).items() if not isinstance(value, dict)}
        state = {name: encode(value) for name, value in values.items() if value is not self._game.random}
        assert None not in state.values(), f"MinAtar keeps something in a form that snapshots do not have: {state}"
        return {"values": state, "random": encode(self._game.random), "held": int(self._game.last_action)}

    def _load_game_state(self, state: dict[str, Any]) -> None:
        for name, value in state["values"].items():
            setattr(self._game.env, name, decode(value))
        self._game.random = self._game.env.random = decode(state["random"])  # one generator for both
        self._game.last_action = state["held"]
