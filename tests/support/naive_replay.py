"""A replay of python lists, and what is compared with it."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict

from plasticity_rl.replay.buffer import FrameReplay

SIZE, ACTIONS, CHANNELS = 4, 2, 3


class Episodes:
    """Random episodes of several environments; every frame holds its own number, so nothing can be mistaken."""

    def __init__(
        self,
        lanes: int,
        stack: int,
        seed: int = 0,
        longest: int = 15,
        terminated: float = 0.5,
        life_loss: float = 0.0,
        num_actions: int = 0,
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.terminated, self.life_loss, self.num_actions = terminated, life_loss, num_actions
        self.lanes, self.stack, self.longest = lanes, stack, longest
        self.next_id = 0
        self.frames: list[list[np.ndarray]] = [[] for _ in range(lanes)]
        self.left = [0] * lanes

    def _action(self) -> np.ndarray:
        if self.num_actions:
            return self.rng.integers(self.num_actions, size=1)
        return self.rng.standard_normal(ACTIONS).astype(np.float32)

    def _frame(self) -> np.ndarray:
        self.next_id += 1
        frame = np.zeros((CHANNELS, SIZE, SIZE), np.uint8)
        frame[:, 0, :3] = [self.next_id % 256, self.next_id // 256 % 256, self.next_id // 65536]
        frame[:, 1, 0] = range(CHANNELS)
        return frame

    def _obs(self, frames: list[np.ndarray]) -> np.ndarray:
        first_padded = [frames[0]] * (self.stack - 1) + frames
        return np.concatenate(first_padded[-self.stack :])

    def step(self) -> TensorDict:
        rows = []
        for lane in range(self.lanes):
            if self.left[lane] == 0:
                self.left[lane] = int(self.rng.integers(1, self.longest + 1))
                self.frames[lane] = [self._frame()]
            obs = self._obs(self.frames[lane])
            self.frames[lane].append(self._frame())
            self.left[lane] -= 1
            done = self.left[lane] == 0
            terminated = done and self.rng.random() < self.terminated
            lost_life = (
                not done and self.life_loss > 0 and self.rng.random() < self.life_loss
            )  # the episode goes on, its return does not
            rows.append(
                {
                    "pixels": torch.from_numpy(obs),
                    "action": torch.from_numpy(self._action()),
                    "next": {
                        "pixels": torch.from_numpy(self._obs(self.frames[lane])),
                        "reward": torch.tensor([self.rng.standard_normal()], dtype=torch.float32),
                        "discount": torch.tensor([0.0 if terminated or lost_life else 1.0]),
                        "done": torch.tensor([done]),
                    },
                }
            )
        return torch.stack([TensorDict(row, []) for row in rows])


class NaiveReplay:
    """What FrameReplay promises, as slowly and plainly as possible: a list of records per lane."""

    def __init__(
        self, lanes: int, capacity: int, stack: int, n_step: int, discount: float = 0.99, clip: float = math.inf
    ) -> None:
        self.length, self.clip = math.ceil(capacity / lanes), np.float32(clip)
        self.stack, self.n_step, self.gamma = stack, n_step, np.float32(discount)
        self.lanes: list[list[dict[str, Any]]] = [[] for _ in range(lanes)]
        self.episode = [0] * lanes
        self.transitions = 0

    def write(self, step: TensorDict) -> None:
        for lane, (records, row) in enumerate(zip(self.lanes, step.unbind(0), strict=True)):
            frame = row["pixels"].numpy()[-CHANNELS:]
            nxt = row["next"]
            records.append(
                {
                    "episode": self.episode[lane],
                    "frame": frame,
                    "action": row["action"].numpy(),
                    "reward": nxt["reward"].numpy()[0],
                    "discount": nxt["discount"].numpy()[0],
                    "last": False,
                }
            )
            if nxt["done"].item():
                last = nxt["pixels"].numpy()[-CHANNELS:]
                records.append({"episode": self.episode[lane], "frame": last, "last": True})
                self.episode[lane] += 1

    def num_transitions(self) -> int:
        return sum(not record["last"] for records in self.lanes for record in records[-self.length :])

    def transitions_by_key(self) -> dict[bytes, dict[str, np.ndarray]]:
        """Every transition that may be sampled, by the bytes of its last observed frame and its action."""
        found = {}
        for records in self.lanes:
            oldest = max(0, len(records) - self.length)
            for anchor in range(oldest, len(records)):
                made = self._transition(records, oldest, anchor)
                if made is not None:
                    found[key_of(made["pixels"], made["action"])] = made
        return found

    def _transition(self, records: list[dict], oldest: int, anchor: int) -> dict[str, np.ndarray] | None:
        bootstrap = anchor + self.n_step
        if bootstrap >= len(records) or records[bootstrap]["episode"] != records[anchor]["episode"]:
            # Shorter, where the return ends before: at a true termination or a lost life.
            ends = [t for t in range(anchor, len(records) - 1) if records[t].get("discount") == 0]
            bootstrap = ends[0] + 1 if ends and ends[0] < bootstrap else bootstrap
        if bootstrap >= len(records) or records[bootstrap]["episode"] != records[anchor]["episode"]:
            return None
        obs, next_obs = (self._stacked(records, oldest, t) for t in (anchor, bootstrap))
        if obs is None or next_obs is None:
            return None
        reward, discount = np.float32(0), np.float32(1)
        for record in records[anchor:bootstrap]:
            reward = np.float32(reward + np.float32(discount * np.clip(record["reward"], -self.clip, self.clip)))
            discount = np.float32(discount * np.float32(record["discount"] * self.gamma))
        action = records[anchor]["action"]
        return {"pixels": obs, "next": next_obs, "action": action, "reward": reward, "discount": discount}

    def _stacked(self, records: list[dict], oldest: int, t: int) -> np.ndarray | None:
        frames = []
        for back in reversed(range(self.stack)):
            source = t - back
            while source < 0 or records[source]["episode"] != records[t]["episode"]:
                source += 1  # before the reset: repeat the reset frame
            if source < oldest:
                return None
            frames.append(records[source]["frame"])
        return np.concatenate(frames)


def key_of(pixels: np.ndarray, action: np.ndarray) -> bytes:
    return pixels[-CHANNELS:].tobytes() + action.tobytes()


def make(stack: int = 3, n_step: int = 3, **kwargs: Any) -> FrameReplay:
    settings: dict[str, Any] = {"capacity": 60, "batch_size": 16, "discount": 0.99, "action_dim": ACTIONS} | kwargs
    return FrameReplay(obs_shape=(CHANNELS * stack, SIZE, SIZE), frame_stack=stack, n_step=n_step, **settings)


def assert_batch_is_naive(batch: TensorDict, naive: NaiveReplay) -> None:
    allowed = naive.transitions_by_key()
    for row in batch.unbind(0):
        wanted = allowed[key_of(row["pixels"].numpy(), row["action"].numpy())]
        np.testing.assert_array_equal(row["pixels"].numpy(), wanted["pixels"])
        np.testing.assert_array_equal(row["next", "pixels"].numpy(), wanted["next"])
        assert row["reward"].numpy()[0] == wanted["reward"]
        assert row["discount"].numpy()[0] == wanted["discount"]


def assert_same_batch(one: TensorDict, two: TensorDict) -> None:
    for key in ("pixels", "action", "reward", "discount", ("next", "pixels")):
        assert torch.equal(one[key], two[key]), key


def through_file(state: dict[str, Any]) -> dict[str, Any]:
    """Save and load as a checkpoint does."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def run(replay: FrameReplay, episodes: Episodes, steps: int) -> list[TensorDict]:
    """Write and sample as training does; return copies of the batches."""
    batches = []
    for _ in range(steps):
        replay.write(episodes.step())
        if replay.has_window:
            batches.append(replay.sample().clone())
    return batches
