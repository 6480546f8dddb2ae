"""The Arcade Learning Environment (ale-py, an extra) with what its own snapshots lack."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import torch

from plasticity_rl.envs.extras import ALE


class Emulator:
    """One game in one emulator.

    Sticky actions are not used here: of those the emulator does by itself, the action held is in no snapshot.

    Attributes:
        minimal_actions: Codes of the actions that mean something in this game.
        all_actions: Codes of all 18 actions.

    Args:
        task: What to call it in a message.
        game: Name of the game.

    Raises:
        UserError: When ale-py is missing.
    """

    def __init__(self, task: str, game: str) -> None:
        ale_py = ALE.load(task)
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # else it greets on stderr
        self._new_state = ale_py.ALEState
        self._ale = ale_py.ALEInterface()
        self._ale.setInt("random_seed", 0)
        self._ale.setFloat("repeat_action_probability", 0.0)
        self._ale.loadROM(ale_py.roms.get_rom_path(game))
        self.minimal_actions = [action.value for action in self._ale.getMinimalActionSet()]
        self.all_actions = [action.value for action in self._ale.getLegalActionSet()]
        self.height, self.width = self._ale.getScreenDims()
        self._loaded_screen: np.ndarray | None = None

    def reset(self) -> None:
        """Switch the console off and on."""
        self._loaded_screen = None
        self._ale.reset_game()

    def act(self, action: int) -> float:
        """Play one frame with an action's code; return the score that it brought."""
        self._loaded_screen = None
        return float(self._ale.act(action))

    @property
    def lives(self) -> int:
        """Lives left; 0 in games without."""
        return self._ale.lives()

    @property
    def over(self) -> bool:
        """Whether the game is over."""
        return self._ale.game_over(with_truncation=False)

    def gray(self) -> np.ndarray:
        """Return the brightness of the screen, uint8 (height, width); after a load, only once a frame was played."""
        return self._ale.getScreenGrayscale()

    def rgb(self) -> np.ndarray:
        """Return the screen, uint8 (height, width, 3)."""
        return self._ale.getScreenRGB() if self._loaded_screen is None else self._loaded_screen

    def state(self) -> dict[str, Any]:
        """Return what decides the future, and the screen, as tensors and plain Python: about 20 KB."""
        saved = self._ale.cloneState(include_rng=True)
        return {
            "emulator": _as_tensor(saved.serialize()),
            "begun": saved.getEpisodeFrameNumber() > 0,
            "screen": _as_tensor(zlib.compress(self.rgb().tobytes(), 1)),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state` into an emulator of the same game, whatever that has played."""
        self._ale.reset_game()
        if state["begun"]:
            # The state lacks a flag of the video chip (ale-py 0.12.1), which the first frame of a game turns over.
            self._ale.act(0)
        self._ale.restoreState(self._new_state(state["emulator"].numpy().tobytes()))
        pixels = np.frombuffer(zlib.decompress(state["screen"].numpy().tobytes()), np.uint8)
        self._loaded_screen = pixels.reshape(self.height, self.width, 3).copy()  # it is not in the emulator's state


def _as_tensor(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
