"""Every intervention and probe on real dm_control pixels: 200 finite updates, and an exact resume."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import fit_tiny
from run_state import callback_states, differences, run_state

import callbacks
from plasticity_rl import Intervention, RLModule
from plasticity_rl.callback import RLCallback

QUICK = ("CURL",)
"""One that adds to networks, losses and state; the others are marked slow."""
ARGUMENTS: dict[str, dict[str, Any]] = {
    "ContinualTasks": {"tasks": ["cartpole_balance", "cartpole_swingup"], "every_n_frames": 500},
}
"""Where the example names tasks of another environment."""
CASES = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in callbacks.__all__]


class Finite(RLCallback):
    """Collects the updates after which a metric was not finite."""

    def __init__(self) -> None:
        self.updates = 0
        self.broken: list[tuple[int, str]] = []

    def on_update_end(self, agent, batch, metrics) -> None:
        assert batch["pixels"].shape[1:] == (9, 24, 24)
        assert batch["pixels"].float().std() > 1, "the camera sees something"
        self.updates += 1
        self.broken += [(self.updates, tag) for tag, value in metrics.items() if not math.isfinite(float(value))]


class CopyAfterCheckpoint(RLCallback):
    """Copies the run folder in the first env step after the checkpoint at frame 700: what a kill would leave.

    Args:
        folder: Where to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_env_step(self, agent, step) -> None:
        if agent.env_frames == 720:
            shutil.copytree(agent.trainer.default_root_dir, self.folder)


def fit_pixels(folder, given, *, ckpt_path: str | None = None) -> RLModule:
    """70 env steps of 20 frames, the last 50 with 4 updates each; an episode ends at frame 1000.

    Evaluations and checkpoints are at frames 0, 700 and 1400.
    """
    from plasticity_rl import make_env

    data: dict[str, Any] = {"task": "cartpole_balance", "env": make_env, "render": "fast", "action_repeat": 20}
    return fit_tiny(
        folder,
        callbacks=given,
        max_frames=1400,
        ckpt_path=ckpt_path,
        data_options={**data, "image_size": 24, "eval_every_n_frames": 700},
        agent_options={"num_seed_frames": 400, "replay_ratio": 4},
    )


@pytest.mark.parametrize("name", CASES)
def test_200_updates_and_an_exact_resume(name, tmp_path):
    cls = getattr(callbacks, name)
    arguments = ARGUMENTS.get(name, cls.example_arguments)
    if cls is callbacks.WarmStartReplay:  # its example names a run on other images
        arguments = {"path": fit_pixels(tmp_path / "donor", []).trainer.default_root_dir}
    make = lambda: cls(**arguments)  # noqa: E731
    first, finite = make(), Finite()
    straight = fit_pixels(tmp_path / "run", [first, finite, CopyAfterCheckpoint(tmp_path / "copy")])
    changes_the_ratio = issubclass(cls, Intervention) and cls.family == "replay_ratio"
    assert finite.updates == straight.num_updates
    assert straight.num_updates >= (10 if changes_the_ratio else 200)
    assert finite.broken == []
    assert all(torch.isfinite(p).all() for p in straight.parameters())
    assert straight.data.task == "cartpole_balance"

    expected = [run_state(straight), callback_states([first])]
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "copy").rename(tmp_path / "run")
    second = make()
    resumed = fit_pixels(tmp_path / "run", [second], ckpt_path="last")
    assert differences(expected, [run_state(resumed), callback_states([second])]) == []
