"""An environment that costs microseconds: a bright square on a line, rewarded near the middle. Pixels or state."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Binary, Bounded, Categorical, Composite, Unbounded
from torchrl.envs import CatFrames, EnvBase, SerialEnv, TransformedEnv


class TinyPixelEnv(EnvBase):
    """One-dimensional control from ``(3, size, size)`` uint8 pixels; episodes of ``episode_steps`` env steps.

    Reward is ``1 - |position|``, so a policy that moves to the middle earns more than one that does not. The start is
    drawn from the env's own generator. Task ``tiny_away`` rewards the ends of the line instead, and draws the square on
    a grey ground; ``tiny_2d`` has a second action that does nothing; ``tiny_discrete`` has three actions: left, none,
    right, and ``tiny_discrete_away`` rewards the ends for these; ``tiny_discrete_2`` has left and none alone.
    Implements ``simulator_state`` /
    ``load_simulator_state``. Or, without a picture, ``state``: float32 (2,), position and share of the episode that is
    over.
    """

    def __init__(
        self,
        *,
        task: str = "tiny",
        seed: int = 0,
        size: int | tuple[int, int] = 16,
        action_repeat: int = 2,
        episode_steps: int = 20,
        observation: str = "pixels",
    ) -> None:
        super().__init__()
        self.observation = observation
        self.height, self.width = (size, size) if isinstance(size, int) else size
        self.action_repeat, self.episode_steps = action_repeat, episode_steps
        self.task_name = task
        self.generator = torch.Generator().manual_seed(seed)
        self.position, self.step_index = 0.0, 0
        picture = Bounded(0, 255, shape=(3, self.height, self.width), dtype=torch.uint8)
        shown = picture if observation == "pixels" else Unbounded(shape=(2,), dtype=torch.float32)
        self.observation_spec = Composite({observation: shown, "discount": Unbounded(shape=(1,), dtype=torch.float32)})
        self.action_spec = Bounded(-1.0, 1.0, shape=(2 if task == "tiny_2d" else 1,), dtype=torch.float32)
        self.discrete, self.away = task.startswith("tiny_discrete"), task.endswith("_away")
        if self.discrete:
            self.action_spec = Categorical(2 if task.endswith("_2") else 3, shape=(1,), dtype=torch.int64)
        self.reward_spec = Unbounded(shape=(1,), dtype=torch.float32)
        self.full_done_spec = Composite(
            {key: Binary(1, shape=(1,), dtype=torch.bool) for key in ("done", "terminated", "truncated")}
        )

    def _observe(self) -> dict[str, torch.Tensor]:
        if self.observation == "pixels":
            return {"pixels": self._frame()}
        return {"state": torch.tensor([self.position, self.step_index / self.episode_steps])}

    def _frame(self) -> torch.Tensor:
        ground = 100 if self.away else 0
        frame = torch.full((3, self.height, self.width), ground, dtype=torch.uint8)
        column = round((self.position + 1) / 2 * (self.width - 1))
        frame[:, self.height // 2 - 2 : self.height // 2 + 2, max(column - 1, 0) : column + 2] = 255
        frame[2, 0] = self.step_index * 10 % 256
        return frame

    def _reset(self, tensordict: TensorDictBase | None, **kwargs: Any) -> TensorDictBase:
        self.position = float(torch.rand((), generator=self.generator) * 2 - 1)
        self.step_index = 0
        return TensorDict({**self._observe(), "discount": torch.ones(1)}, batch_size=[])

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        reward, push = 0.0, float(tensordict["action"][0]) - self.discrete
        for _ in range(self.action_repeat):
            self.position = max(-1.0, min(1.0, self.position + 0.1 * push))
            reward += abs(self.position) if self.away else 1.0 - abs(self.position)
        self.step_index += 1
        end = torch.tensor([self.step_index >= self.episode_steps])
        return TensorDict(
            {
                **self._observe(),
                "discount": torch.ones(1),
                "reward": torch.tensor([reward], dtype=torch.float32),
                "done": end,
                "terminated": torch.zeros(1, dtype=torch.bool),
                "truncated": end.clone(),
            },
            batch_size=[],
        )

    def _set_seed(self, seed: int | None) -> None:
        if seed is not None:
            self.generator.manual_seed(seed)

    def simulator_state(self) -> dict[str, Any]:
        """Everything the next frames depend on."""
        return {
            "task": self.task_name,
            "position": self.position,
            "step_index": self.step_index,
            "generator": self.generator.get_state(),
        }

    def load_simulator_state(self, state: dict[str, Any]) -> None:
        """Continue from what ``simulator_state`` returned."""
        assert state["task"] == self.task_name, "the state of another task"
        self.position, self.step_index = state["position"], state["step_index"]
        self.generator.set_state(state["generator"])


def make_tiny_env(
    task: str = "tiny",
    *,
    seed: int,
    action_repeat: int = 2,
    frame_stack: int = 3,
    image_size: int | tuple[int, int] = 16,
    num_envs: int = 1,
    observation: str = "pixels",
    **ignored: Any,
) -> EnvBase:
    """Same signature as ``plasticity_rl.make_env``, for tests."""

    def make(index: int) -> EnvBase:
        options = {"size": image_size, "action_repeat": action_repeat, "observation": observation}
        base = TinyPixelEnv(task=task, seed=seed + index, **options)
        if observation == "state":
            return base
        return TransformedEnv(base, CatFrames(frame_stack, dim=-3, in_keys=["pixels"]))

    return make(0) if num_envs == 1 else SerialEnv(num_envs, [lambda i=i: make(i) for i in range(num_envs)])
