"""Short real runs on DeepMind Control from pixels, with tiny networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from helpers import TINY_TRAINER

from plasticity_rl import DrQV2, RLDataModule, make_trainer
from plasticity_rl.run.video import EvalVideo


def fit_real(
    folder: Path,
    *,
    callbacks: Sequence[pl.Callback],
    data_options: Mapping[str, Any] = {},
    agent_options: Mapping[str, Any] = {},
    ckpt_path: str | None = None,
) -> DrQV2:
    """Train 1600 frames of cartpole: 50 env steps of seed phase, then 150 with 2 updates each; one evaluation."""
    pl.seed_everything(1, verbose=False)
    data: dict[str, Any] = {
        "task": "cartpole_swingup",
        "action_repeat": 8,
        "image_size": 24,
        "render": "fast",
        "batch_size": 16,
        "capacity": 2000,
        "max_frames": 1600,
        "eval_every_n_frames": 1600,
        "num_eval_episodes": 1,
    }
    module = RLDataModule(**{**data, **data_options})
    agent: dict[str, Any] = {
        "feature_dim": 8,
        "hidden_dim": 16,
        "num_channels": 4,
        "num_seed_frames": 400,
        "replay_ratio": 2.0,
        "stddev_schedule": 0.2,
    }
    trained = DrQV2(module.obs_shape, module.action_dim, **{**agent, **agent_options})
    make_trainer(folder, callbacks=[*callbacks, EvalVideo(every_n_evals=0)], **TINY_TRAINER).fit(
        trained, module, ckpt_path=ckpt_path
    )
    return trained
