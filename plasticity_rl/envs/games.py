"""What games with numbered actions have in common as TorchRL environments: specs, ends, time limit, snapshots."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from plasticity_rl.envs.atari_frames import scaled
from plasticity_rl.errors import UserError


@dataclass
class Played:
    """What an env step did.

    Attributes:
        pixels: What is seen after it, uint8 (channels, height, width).
        reward: Sum of the scores.
        frames: Frames that were played, at least 1.
        over: Whether the game is over.
        lost_life: Whether a life was lost.
    """

    pixels: np.ndarray
    reward: float
    frames: int
    over: bool
    lost_life: bool = False


class GameEnv(EnvBase):
    """A game, one frame at a time below, one env step at a time above.

    Keys: ``pixels`` uint8 (channels, height, width), ``action`` int64 (1,), ``reward`` float32 (1,), ``discount``
    float32 (1,), ``done``, ``terminated``, ``truncated`` bool (1,). The discount is 0 when the game is over, and where
    a lost life counts (then ``done`` is false); it is 1 at the time limit.

    Attributes:
        task_name: Name of the task.
        action_repeat: Frames per env step.
        num_actions: Actions are the whole numbers below this.
        action_codes: What the simulator calls each of them: two games of equally many can mean different ones.

    Args:
        task: Name of the task.
        action_repeat: Frames per env step.
        max_episode_frames: Frames at which an episode is cut.
        pixels_shape: (channels, height, width) of what is seen.
        action_codes: What the simulator calls each action.
    """

    def __init__(
        self,
        task: str,
        *,
        action_repeat: int,
        max_episode_frames: int,
        pixels_shape: tuple[int, int, int],
        action_codes: Sequence[int],
    ) -> None:
        super().__init__(device=torch.device("cpu"), batch_size=torch.Size())
        self.action_codes = tuple(map(int, action_codes))
        self.task_name, self.action_repeat, self.num_actions = task, action_repeat, len(self.action_codes)
        self._max_frames = max_episode_frames
        self._frames, self._ended = 0, True
        flag = Categorical(2, shape=(1,), dtype=torch.bool)
        pixels = Bounded(0, 255, pixels_shape, dtype=torch.uint8)
        self.observation_spec = Composite(pixels=pixels, discount=Bounded(0, 1, (1,), dtype=torch.float32))
        self.action_spec = Categorical(self.num_actions, shape=(1,), dtype=torch.int64)
        self.reward_spec = Unbounded((1,), dtype=torch.float32)
        self.done_spec = Composite(done=flag.clone(), terminated=flag.clone(), truncated=flag.clone())

    @property
    def episode_steps(self) -> int:
        """Env steps of an episode that nothing ends early."""
        return -(-self._max_frames // self.action_repeat)

    # ---- the game ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def _start(self) -> np.ndarray:
        """Begin a game; return what is seen, uint8 (channels, height, width)."""

    @abstractmethod
    def _play(self, action: int, frames: int) -> Played:
        """Hold an action for so many frames, fewer where the game ends."""

    @abstractmethod
    def _game_state(self) -> dict[str, Any]:
        """Return what decides the future of the game, as tensors and plain Python."""

    @abstractmethod
    def _load_game_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`_game_state` returned, also in another process."""

    @abstractmethod
    def colour_frame(self) -> np.ndarray:
        """Return the screen as it is now, uint8 RGB (height, width, 3), at the game's own size."""

    # ---- TorchRL ----------------------------------------------------------------------------------------------------

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDict:
        self._frames, self._ended = 0, False
        data = {"pixels": torch.from_numpy(self._start()), "discount": torch.ones(1)}
        return TensorDict(data, self.batch_size, self.device)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        if self._ended:
            raise RuntimeError("step() after the end of an episode: call reset() first.")
        frames = min(self.action_repeat, self._max_frames - self._frames)
        played = self._play(self._action(tensordict["action"]), frames)
        self._frames += played.frames
        truncated = not played.over and self._frames >= self._max_frames
        self._ended = played.over or truncated
        flags = {"done": self._ended, "terminated": played.over, "truncated": truncated}
        data = {
            "pixels": torch.from_numpy(played.pixels),
            "discount": torch.tensor([0.0 if played.over or played.lost_life else 1.0]),
            "reward": torch.tensor([played.reward], dtype=torch.float32),
            **{name: torch.tensor([flag]) for name, flag in flags.items()},
        }
        return TensorDict(data, self.batch_size, self.device)

    def _action(self, action: torch.Tensor) -> int:
        if action.is_floating_point():
            raise UserError(
                f"{self.task_name} has {self.num_actions} numbered actions, but was given {action.dtype} ones: the "
                "agent chooses continuous actions, as those of robots are"
            )
        number = int(action)
        if not 0 <= number < self.num_actions:
            allowed = f"a whole number from 0 to {self.num_actions - 1} in {self.task_name}"
            raise UserError(f"action={number} must be {allowed}")
        return number

    def render_rgb(self, height: int, width: int) -> np.ndarray:
        """Return the screen as it is now at any size, uint8 RGB (height, width, 3)."""
        return scaled(self.colour_frame(), height, width)

    # ---- snapshots --------------------------------------------------------------------------------------------------

    def simulator_state(self) -> dict[str, Any]:
        """Return an exact snapshot, as tensors and plain Python."""
        own = {"task_name": self.task_name, "frames": self._frames, "ended": self._ended}
        return {**own, "game": self._game_state()}

    def load_simulator_state(self, state: dict[str, Any]) -> None:
        """Restore a snapshot of the same task.

        Raises:
            UserError: For a snapshot of another task.
        """
        if (saved := state.get("task_name")) != self.task_name:
            raise UserError(f"The snapshot is of task {saved}, this environment is of task {self.task_name}.")
        self._frames, self._ended = state["frames"], state["ended"]
        self._load_game_state(state["game"])
