"""One Gymnasium environment as a TorchRL base environment that can be saved exactly.

TorchRL's ``GymWrapper`` was looked at: it has no discount, leaves float64, names and shapes as they are, repeats
actions by a transform that draws every frame, resets when it is seeded, and cannot be saved in mid-episode.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from PIL import Image
from tensordict import TensorDict, TensorDictBase

from plasticity_rl.envs import gym_returns, gym_state
from plasticity_rl.envs.extras import GYMNASIUM
from plasticity_rl.envs.gym_ids import PREFIX
from plasticity_rl.errors import UserError, describe_error
from plasticity_rl.machine.rendering import free_at_exit, prepare, rendering_errors

prepare()
with rendering_errors():
    from torchrl.data import Bounded, Categorical, Composite, Unbounded
    from torchrl.envs import EnvBase


class GymEnv(EnvBase):
    """One Gymnasium environment with single frames or state, see :class:`~plasticity_rl.envs.gym_options.GymOptions`.

    Attributes:
        task_name: The task, ``gym:<id>``.
        action_repeat: Steps of the environment per env step.

    Args:
        task: The same.
        seed: Seed of its generator, used at the first reset.
        action_repeat: The same.
        image_size: Height and width of ``pixels``; None observes the state.

    Raises:
        UserError: For actions that are not continuous and bounded, an observation that is no vector, or an environment
            that cannot be made or drawn; later for what ``reset`` and ``step`` must not return.
    """

    def __init__(
        self, task: str, *, seed: int, action_repeat: int = 1, image_size: tuple[int, int] | None = None
    ) -> None:
        super().__init__(device=torch.device("cpu"), batch_size=torch.Size())
        self.task_name, self.action_repeat = task, action_repeat
        self._image_size = image_size
        self._next_seed: int | None = seed
        self._spaces = GYMNASIUM.load(f"task={task}").spaces
        self._env = self._make()
        self._shows_images = _is_image(self._env.observation_space)
        self._low, self._high = self._action_range()
        self._model = gym_state.model_of(self._env)
        self._make_specs()
        if image_size is not None:
            free_at_exit(self)

    def _make(self) -> Any:
        mode = {"render_mode": "rgb_array"} if self._image_size is not None else {}
        try:
            with warnings.catch_warnings(), rendering_errors():
                warnings.simplefilter("ignore")  # of versions and of packages that Gymnasium imports
                gym = GYMNASIUM.load(f"task={self.task_name}")
                return gym.make(self.task_name.removeprefix(PREFIX), disable_env_checker=True, **mode)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"task={self.task_name} cannot be made: {describe_error(error)}") from error

    @property
    def episode_steps(self) -> float:
        """Env steps of an episode that nothing ends early, or infinity."""
        most = self._env.spec.max_episode_steps if self._env.spec is not None else None
        return math.inf if most is None else math.ceil(most / self.action_repeat)

    def _action_range(self) -> tuple[np.ndarray, np.ndarray]:
        space = self._env.action_space
        if not isinstance(space, self._spaces.Box) or not np.issubdtype(space.dtype, np.floating):
            raise UserError(
                f"task={self.task_name} has the actions {space}; agents here choose continuous ones: allowed is a Box "
                "of floats with finite bounds, such as that of gym:Pendulum-v1"
            )
        if not space.is_bounded():
            raise UserError(
                f"task={self.task_name} has actions without bounds, {space}: give it some, with "
                "gymnasium.wrappers.RescaleAction in an environment of your own"
            )
        return space.low.astype(np.float64), space.high.astype(np.float64)

    def _make_specs(self) -> None:
        flag = Categorical(2, shape=(1,), dtype=torch.bool)
        shown: dict[str, Any]
        if self._image_size is not None:
            shown = {"pixels": Bounded(0, 255, (3, *self._image_size), dtype=torch.uint8)}
        else:
            self._size = self._state_size()
            shown = {"state": Unbounded((self._size,), dtype=torch.float32)}
        self.observation_spec = Composite(shown, discount=Bounded(0, 1, (1,), dtype=torch.float32))
        self.action_spec = Bounded(-1, 1, (self._low.size,), dtype=torch.float32)
        self.reward_spec = Unbounded((1,), dtype=torch.float32)
        self.done_spec = Composite(done=flag.clone(), terminated=flag.clone(), truncated=flag.clone())

    def _state_size(self) -> int:
        space = self._env.observation_space
        if self._shows_images:
            raise UserError(f"task={self.task_name} shows images, {space}: use --data.observation pixels")
        try:
            return int(self._spaces.flatdim(space))
        except (NotImplementedError, ValueError) as error:
            raise UserError(
                f"task={self.task_name} has the observations {space}, which are no vector of one length: use "
                "--data.observation pixels, or a wrapper in an environment of your own"
            ) from error

    # ---- steps ------------------------------------------------------------------------------------------------------

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDict:
        seed, self._next_seed = self._next_seed, None
        observation, _ = gym_returns.call(self._env, self.task_name, "reset", seed=seed)
        flags = {name: torch.zeros(1, dtype=torch.bool) for name in ("done", "terminated", "truncated")}
        return TensorDict(
            {**self._shown(observation), "discount": torch.ones(1), **flags}, self.batch_size, device=self.device
        )

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        share = (tensordict["action"].numpy().astype(np.float64).reshape(self._low.shape) + 1) / 2
        action = np.clip(self._low + share * (self._high - self._low), self._low, self._high)
        action = action.astype(self._env.action_space.dtype)
        total, terminated, truncated = 0.0, False, False
        for _ in range(self.action_repeat):
            observation, reward, terminated, truncated, _ = gym_returns.call(self._env, self.task_name, "step", action)
            total += gym_returns.as_number(self.task_name, reward)
            if terminated or truncated:
                break
        flags = {"done": terminated or truncated, "terminated": terminated, "truncated": truncated and not terminated}
        data = {
            **self._shown(observation),
            "discount": torch.tensor([0.0 if terminated else 1.0]),
            "reward": torch.tensor([total], dtype=torch.float32),
            **{name: torch.tensor([bool(flag)]) for name, flag in flags.items()},
        }
        return TensorDict(data, self.batch_size, device=self.device)

    def _shown(self, observation: Any) -> dict[str, torch.Tensor]:
        space, task = self._env.observation_space, self.task_name
        if self._image_size is None:
            vector = gym_returns.as_vector(space, self._spaces.flatten, task, observation, self._size)
            return {"state": torch.from_numpy(vector)}
        image = gym_returns.as_image(space, task, observation) if self._shows_images else self._drawn()
        return {"pixels": torch.from_numpy(_resized(image, *self._image_size).transpose(2, 0, 1).copy())}

    def _drawn(self) -> np.ndarray:
        try:
            with rendering_errors():
                image = self._env.render()
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"task={self.task_name} cannot be drawn: {describe_error(error)}") from error
        if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[-1] != 3:
            raise UserError(
                f"task={self.task_name} draws no RGB image (render_mode rgb_array gives a {type(image).__name__}): "
                "use --data.observation state"
            )
        return image

    def render_rgb(self, height: int, width: int) -> np.ndarray:
        """Draw the present state, as uint8 RGB (height, width, 3)."""
        return _resized(self._drawn(), height, width)

    def _set_seed(self, seed: int | None) -> None:
        """Seed the next reset; nothing is reset."""
        if seed is not None:
            self._next_seed = seed

    def free_rendering(self) -> None:
        """Free what draws, at the exit of the interpreter."""
        self._env.close()

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close the environment. Closing twice is harmless."""
        self._env.close()
        super().close(raise_if_closed=raise_if_closed)

    # ---- exact snapshots --------------------------------------------------------------------------------------------

    def why_not_exact(self) -> str:
        """Return what keeps the environment from being saved exactly, or an empty string."""
        return gym_state.why_not(self._env)

    def simulator_state(self) -> dict[str, Any]:
        """Return an exact snapshot, as tensors and plain Python.

        Raises:
            UserError: When something in the environment has no such form.
        """
        state = gym_state.state_of(self._env, self._model)
        return {"task_name": self.task_name, "next_seed": self._next_seed, **state}

    def load_simulator_state(self, state: dict[str, Any]) -> None:
        """Restore a snapshot of the same task.

        Raises:
            UserError: For one of another task.
        """
        if state.get("task_name") != self.task_name:
            saved = state.get("task_name")
            raise UserError(f"The snapshot is of task {saved}, this environment is of task {self.task_name}.")
        self._next_seed = state["next_seed"]
        gym_state.load_state(self._env, state, self._model)


def _is_image(space: Any) -> bool:
    return getattr(space, "dtype", None) == np.uint8 and len(space.shape or ()) == 3 and space.shape[-1] == 3


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
