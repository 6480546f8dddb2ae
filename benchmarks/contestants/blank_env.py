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
    """

    def __init__(self, image_size: int, episode_steps: int) -> None:
        super().__init__()
        self.episode_steps = episode_steps
        self._frames = list(noise_frames(image_size))
        self._step_index = 0
        picture = Bounded(0, 255, shape=(3, image_size, image_size), dtype=torch.uint8)
        self.observation_spec = Composite(pixels=picture, discount=Unbounded(shape=(1,), dtype=torch.float32))
        self.action_spec = Bounded(-1.0, 1.0, shape=(ACTION_DIM,), dtype=torch.float32)
        self.reward_spec = Unbounded(shape=(1,), dtype=torch.float32)
        flags = ("done", "terminated", "truncated")
        self.full_done_spec = Composite({flag: Binary(1, shape=(1,), dtype=torch.bool) for flag in flags})

    def _observe(self) -> dict[str, torch.Tensor]:
        return {"pixels": self._frames[self._step_index % len(self._frames)], "discount": torch.ones(1)}

    def _reset(self, tensordict: TensorDictBase | None, **kwargs: Any) -> TensorDict:
        self._step_index = 0
        return TensorDict(self._observe(), batch_size=[])

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        self._step_index += 1
        ended = self._step_index >= self.episode_steps
        flags = {"done": ended, "terminated": False, "truncated": ended}
        data = {**self._observe(), "reward": torch.ones(1), **{name: torch.tensor([on]) for name, on in flags.items()}}
        return TensorDict(data, batch_size=[])

    def _set_seed(self, seed: int | None) -> None:
        pass

    def simulator_state(self) -> dict[str, Any]:
        return {"step_index": self._step_index}

    def load_simulator_state(self, state: dict[str, Any]) -> None:
        self._step_index = state["step_index"]


def make_env(task: str = "blank_500", *, image_size: int = 16, frame_stack: int = 3, **ignored: Any) -> EnvBase:
    """Signature of ``plasticity_rl.make_env``, one environment only; ``task`` ends in the length of an episode."""
    episode_steps = int(task.rpartition("_")[2])
    return TransformedEnv(BlankEnv(image_size, episode_steps), CatFrames(frame_stack, dim=-3, in_keys=["pixels"]))
