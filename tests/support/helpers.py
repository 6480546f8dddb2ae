"""Short real runs on the tiny environment."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from tiny_env import make_tiny_env
from torch import nn

from plasticity_rl import DQN, SAC, DrQV2, RLDataModule, RLModule, make_trainer
from plasticity_rl.run.video import EvalVideo

TINY_DATA: dict[str, Any] = {
    "task": "tiny",
    "env": make_tiny_env,
    "image_size": 16,
    "batch_size": 8,
    "capacity": 500,
    "eval_every_n_frames": 100,
    "num_eval_episodes": 1,
}
TINY_AGENT: dict[str, Any] = {
    "feature_dim": 8,
    "hidden_dim": 16,
    "num_channels": 4,
    "random_shift_pad": 1,
    "num_seed_frames": 40,
    "lr": 1e-3,
    "stddev_schedule": "linear(1.0,0.1,200)",
}
TINY_SAC: dict[str, Any] = {"hidden_dim": 16, "num_seed_frames": 40, "lr": 1e-3, "replay_ratio": 0.5}
TINY_DQN: dict[str, Any] = {
    "encoder": "minatar",
    "num_channels": 4,
    "hidden_dim": 16,
    "num_seed_frames": 40,
    "lr": 1e-3,
    "replay_ratio": 0.5,
    "target_every_n_updates": 7,
    "epsilon_schedule": "linear(1.0,0.1,100)",
}
TINY_DISCRETE: dict[str, Any] = {"task": "tiny_discrete"}
"""What a data module needs beside :data:`TINY_DATA` for actions to be discrete."""
TINY_TRAINER: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}


def tiny_data(**options: Any) -> RLDataModule:
    """Return a data module on the tiny env; episodes are 20 env steps of 2 frames."""
    return RLDataModule(**{**TINY_DATA, **options})


def tiny_agent(data: RLDataModule, **options: Any) -> DrQV2:
    """Return a small agent that fits ``data``."""
    return DrQV2(data.obs_shape, data.action_dim, **{**TINY_AGENT, **options})


def tiny_sac(data: RLDataModule, **options: Any) -> SAC:
    """Return a small SAC that fits ``data``, whose observation must be the state."""
    return SAC(data.obs_shape, data.action_dim, **{**TINY_SAC, **options})


def tiny_dqn(data: RLDataModule, **options: Any) -> DQN:
    """Return a small DQN that fits ``data``, whose actions must be discrete (:data:`TINY_DISCRETE`)."""
    return DQN(data.obs_shape, data.num_actions, **{**TINY_DQN, **options})


def fit_tiny(
    tmp_path: Path,
    *,
    callbacks: Sequence[pl.Callback] = (),
    max_frames: int = 200,
    seed: int = 1,
    ckpt_path: str | None = None,
    data_options: Mapping[str, Any] = {},
    agent_options: Mapping[str, Any] = {},
    trainer_options: Mapping[str, Any] = {},
    make_agent: Callable[..., RLModule] = tiny_agent,
) -> Any:
    """Train in the run folder ``tmp_path`` and return the agent; ``agent.trainer`` and ``agent.data`` stay attached.

    By default updates start at frame 40, and evaluations with checkpoints happen at every multiple of 100 frames.

    Args:
        tmp_path: Run folder. Give two runs that are compared a folder each.
        callbacks: Interventions, probes or any Lightning callbacks. No videos unless an ``EvalVideo`` is among them.
        max_frames: Frames at which the run stops.
        seed: Seed of everything.
        ckpt_path: Checkpoint to resume from, e.g. ``"last"``.
        data_options: Arguments of ``RLDataModule`` that replace the tiny defaults.
        agent_options: Arguments of ``DrQV2`` that replace the tiny defaults.
        trainer_options: Arguments of ``make_trainer``.
        make_agent: ``tiny_agent``, ``tiny_sac`` or ``tiny_dqn``.
    """
    pl.seed_everything(seed, verbose=False)
    data = tiny_data(**{"max_frames": max_frames, "seed": seed, **data_options})
    agent = make_agent(data, **{"seed": seed, **agent_options})
    film = [] if any(isinstance(callback, EvalVideo) for callback in callbacks) else [EvalVideo(every_n_evals=0)]
    trainer = make_trainer(tmp_path, callbacks=[*callbacks, *film], **{**TINY_TRAINER, **trainer_options})
    trainer.fit(agent, data, ckpt_path=ckpt_path)
    return agent


def fit_with_maps(tmp_path: Path, *, data_options: Mapping[str, Any] = {}, **options: Any) -> Any:
    """Return ``fit_tiny`` with a last feature map of 3x3 and not 1x1, in which channels and places could be mixed up.

    For whatever edits units: a channel of the last convolution is read through nine columns.
    """
    return fit_tiny(tmp_path, data_options={"image_size": 20, **data_options}, **options)


def weights_hash(module: nn.Module) -> str:
    """Return a digest of all parameters and buffers, bit by bit, with their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
