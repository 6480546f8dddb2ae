"""One run on real pixels, in a process of its own: ``python resume_run.py FOLDER STORAGE KILL_AT_FRAME``.

With a frame > 0 the process ends itself by SIGKILL there; with 0 it runs to the end, from the last checkpoint if there
is one, and prints a digest of everything the run consists of.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import lightning.pytorch as pl
import torch
from run_state import callback_states, run_state

from callbacks import FractionActiveUnits, L2Init, Reset, ToggleAugmentation
from plasticity_rl import DrQV2, RLDataModule, make_trainer
from plasticity_rl.callback import RLCallback
from plasticity_rl.run.video import EvalVideo

EVERY_N_FRAMES = 480  # 30 env steps; neither 480 nor 960 nor 1440 is the end of an episode
MAX_FRAMES = 1440


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


def main(folder: Path, storage: str, kill_at: int) -> None:
    torch.set_num_threads(1)
    pl.seed_everything(2, verbose=False)
    data = RLDataModule(
        "cartpole_swingup",
        action_repeat=16,  # the last env step of an episode is cut short: 62.5 of them
        image_size=32,
        render="fast",
        batch_size=16,
        capacity=60,  # fewer than the run's records: the ring goes round
        storage=storage,
        max_frames=MAX_FRAMES,
        eval_every_n_frames=EVERY_N_FRAMES,
        num_eval_episodes=1,
        seed=2,
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
    watched = [
        FractionActiveUnits(every_n_updates=3),
        L2Init(modules=["critic"]),
        Reset(modules=["critic.Q1"], every_n_frames=400),
        ToggleAugmentation(at_frame=480, on=False),
    ]
    given = [*watched, EvalVideo(every_n_evals=0), *([Kill(kill_at)] if kill_at else [])]
    options = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = make_trainer(folder, callbacks=given, **options)
    resume = (folder / "checkpoints" / "last.ckpt").exists()
    trainer.fit(agent, data, ckpt_path="last" if resume else None)
    parts = {**run_state(agent), "callbacks": callback_states(watched)}
    digests = {k: hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest() for k, part in parts.items()}
    facts = {"frames": agent.env_frames, "updates": agent.num_updates, "evaluated": agent.eval_returns}
    print(json.dumps({"digests": digests, "facts": facts}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
