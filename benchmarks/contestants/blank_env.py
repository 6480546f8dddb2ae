"""An environment that costs next to nothing: a few frames of noise in turn. For what the framework itself costs."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Binary, Bounded, Composite, Unbounded
from torchrl.envs import CatFrames, EnvBase, TransformedEnv

ACTION_DIM = 6


def noise_frames(image_size: int) -> torch.Tensor:
    """Return the frames, uint8 ``(16, 3, image_size, image_size)``."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (16, 3, image_size, image_size), dtype=torch.uint8, generator=generator)


class BlankEnv(EnvBase):
    """Shows the frames in turn, whatever is done; reward 1.

    Args:
        image_size: Height and width in pixels.
        episode_steps: Env steps of an episode.
        num_envs: Environments side by side, in step with each other; of more than one all keys have that dimension.
    """

    def __init__(self, image_size: int, episode_steps: int, num_envs: int = 1) -> None:
        side = () if num_envs == 1 else (num_envs,)
        super().__init__(batch_size=side)
        self.episode_steps = episode_steps
        self._frames = [frame.expand(*side, *frame.shape).contiguous() for frame in noise_frames(image_size)]
        self._step_index = 0
        picture = Bounded(0, 255, shape=(*side, 3, image_size, image_size), dtype=torch.uint8)
        self._ones = torch.ones(*side, 1)
        discount = Unbounded(shape=(*side, 1), dtype=torch.float32)
        self.observation_spec = Composite(pixels=picture, discount=discount, shape=side)
        self.action_spec = Bounded(-1.0, 1.0, shape=(*side, ACTION_DIM), dtype=torch.float32)
        self.reward_spec = Unbounded(shape=(*side, 1), dtype=torch.float32)
        flags = {flag: Binary(1, shape=(*side, 1), dtype=torch.bool) for flag in ("done", "terminated", "truncated")}
        self.full_done_spec = Composite(flags, shape=side)

    def _observe(self) -> dict[str, torch.Tensor]:
        return {"pixels": self._frames[self._step_index % len(self._frames)], "discount": self._ones.clone()}

    def _reset(self, tensordict: TensorDictBase | None, **kwargs: Any) -> TensorDict:
        self._step_index = 0
        return TensorDict(self._observe(), batch_size=self.batch_size)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        self._step_index += 1
        ended = self._step_index >= self.episode_steps
        flags = {"done": ended, "terminated": False, "truncated": ended}
        ends = {name: torch.full(self._ones.shape, on) for name, on in flags.items()}
        return TensorDict({**self._observe(), "reward": self._ones.clone(), **ends}, batch_size=self.batch_size)

    def _set_seed(self, seed: int | None) -> None:
        pass

    def simulator_state(self) -> dict[str, Any]:
        return {"step_index": self._step_index}

    def load_simulator_state(self, state: dict[str, Any]) -> None:
        self._step_index = state["step_index"]


def make_env(
    task: str = "blank_500", *, image_size: int = 16, frame_stack: int = 3, num_envs: int = 1, **ignored: Any
) -> EnvBase:
    """Signature of ``plasticity_rl.make_env``; ``task`` ends in the length of an episode."""
    blank = BlankEnv(image_size, int(task.rpartition("_")[2]), num_envs)
    return TransformedEnv(blank, CatFrames(frame_stack, dim=-3, in_keys=["pixels"]))
