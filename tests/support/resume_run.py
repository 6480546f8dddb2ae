"""A run in a process of its own: ``python resume_run.py FOLDER AGENT STORAGE KILL_AT_FRAME``.

With a frame > 0 the process ends itself by SIGKILL there; with 0 it runs to the end, from the last checkpoint if there
is one, and prints a digest of everything the run consists of.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from run_state import callback_states, run_state

from callbacks import FractionActiveUnits, L2Init, ReDo, Reset, ToggleAugmentation
from plasticity_rl import DQN, DrQV2, RLDataModule, RLModule, make_trainer
from plasticity_rl.callback import RLCallback
from plasticity_rl.run.video import EvalVideo

EVERY_N_FRAMES = 480  # neither 480 nor 960 nor 1440 is the end of an episode
MAX_FRAMES = 1440
SHARED = {"max_frames": MAX_FRAMES, "eval_every_n_frames": EVERY_N_FRAMES, "num_eval_episodes": 1, "seed": 2}


class Kill(RLCallback):
    """Ends this process at once.

    Args:
        frame: Env frame from which on.
    """

    def __init__(self, frame: int) -> None:
        self.frame = frame

    def on_update_end(self, agent, batch, metrics) -> None:
        if agent.env_frames >= self.frame:
            os.kill(os.getpid(), signal.SIGKILL)


def drqv2(storage: str) -> tuple[RLDataModule, RLModule, list[RLCallback]]:
    """Cart-pole from pixels: an env step is 16 frames, an episode 62.5 of them, whose last is cut short."""
    data = RLDataModule(
        "cartpole_swingup",
        action_repeat=16,
        image_size=32,
        render="fast",
        batch_size=16,
        capacity=60,  # fewer than the run's records: the ring goes round
        storage=storage,
        **SHARED,
    )
    agent = DrQV2(
        data.obs_shape,
        data.action_dim,
        feature_dim=8,
        hidden_dim=32,
        num_channels=4,
        num_seed_frames=320,
        stddev_schedule="linear(1.0,0.1,100)",
        lr=1e-3,
        seed=2,
    )
    return data, agent, [
        FractionActiveUnits(every_n_updates=3),
        L2Init(modules=["critic"]),
        Reset(modules=["critic.Q1"], every_n_frames=400),
        ToggleAugmentation(at_frame=480, on=False),
    ]  # fmt: skip


def rainbow(storage: str) -> tuple[RLDataModule, RLModule, list[RLCallback]]:
    """Breakout by the preset at its full size, only shorter: lives and games are lost, the target is copied."""
    preset = yaml.safe_load((Path(__file__).parents[2] / "configs/atari/rainbow.yaml").read_text())
    shorter = {
        "task": "atari:breakout",
        "capacity": 200,
        "max_episode_frames": 900,
        "priority_beta": "linear(0.4,1,360)",
    }
    data = RLDataModule(**{**preset["data"], **SHARED, **shorter, "storage": storage})
    options = {**preset["model"], "num_seed_frames": 320, "target_every_n_updates": 20, "seed": 2}
    agent = DQN(data.obs_shape, data.num_actions, **options)
    return data, agent, [
        FractionActiveUnits(every_n_updates=3),
        ReDo(every_n_updates=15, tau=0.1),
        Reset(modules=["critic.value"], every_n_frames=400),
    ]  # fmt: skip


AGENTS: dict[str, Callable[[str], tuple[RLDataModule, RLModule, list[RLCallback]]]] = {
    "drqv2": drqv2,
    "rainbow": rainbow,
}


def main(folder: Path, agent_name: str, storage: str, kill_at: int) -> None:
    torch.set_num_threads(1)
    pl.seed_everything(2, verbose=False)
    data, agent, watched = AGENTS[agent_name](storage)
    given = [*watched, EvalVideo(every_n_evals=0), *([Kill(kill_at)] if kill_at else [])]
    options: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = make_trainer(folder, callbacks=given, **options)
    resume = (folder / "checkpoints" / "last.ckpt").exists()
    trainer.fit(agent, data, ckpt_path="last" if resume else None)
    parts = {**run_state(agent), "callbacks": callback_states(watched)}
    digests = {k: hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest() for k, part in parts.items()}
    facts = {"frames": agent.env_frames, "updates": agent.num_updates, "evaluated": agent.eval_returns}
    print(json.dumps({"digests": digests, "facts": facts}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
