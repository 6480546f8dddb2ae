"""Call the command line in process (importing torch once), and read back what a run left on disk."""

from __future__ import annotations

import contextlib
import hashlib
import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from plasticity_rl.__main__ import TRUSTING, main

REPOSITORY = Path(__file__).parents[2]
TINY = [
    "--data.env=tiny_env.make_tiny_env",
    "--data.task=tiny",
    "--data.action_repeat=2",
    "--data.image_size=16",
    "--data.batch_size=8",
    "--data.capacity=500",
    "--data.eval_every_n_frames=100",
    "--data.num_eval_episodes=1",
    "--model.feature_dim=8",
    "--model.hidden_dim=16",
    "--model.num_channels=4",
    "--model.random_shift_pad=1",
    "--model.num_seed_frames=40",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.log_every_n_steps=10",
]
"""A run on the tiny env in about a second; episodes are 20 env steps of 2 frames."""
TINY_DATA = [option for option in TINY if not option.startswith("--model.")] + ["--data.observation=state"]
TINY_SAC = [
    *TINY_DATA,
    "--agent=sac",
    "--model.hidden_dim=16",
    "--model.num_seed_frames=40",
    "--model.replay_ratio=0.5",
]
"""The same with SAC from states."""
TINY_DQN = [
    *TINY_DATA,
    "--data.task=tiny_discrete",
    "--agent=dqn",
    "--model.hidden_dim=16",
    "--model.num_seed_frames=40",
    "--model.replay_ratio=0.5",
    "--model.target_every_n_updates=10",
]
"""The same with DQN from states."""


class Result(NamedTuple):
    code: int
    out: str
    err: str


def call(*args: str | Path, trust: bool = True) -> Result:
    """Run ``plasticity-rl ARGS`` in this process; with ``trust``, the tests' own environment is built from any file."""
    out, err = io.StringIO(), io.StringIO()
    if trust and args[:1] and args[0] in TRUSTING and "--print_config" not in args:
        args = (*args, "--trust")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(arg) for arg in args])
        except SystemExit as stop:  # --help and --print_config
            code = int(stop.code or 0)
    return Result(code, out.getvalue(), err.getvalue())


WITHOUT_TORCH = """
import sys
from plasticity_rl.__main__ import TRUSTING, main

code = main(sys.argv[1:])
slow = {"dm_control", "lightning", "mujoco", "tensordict", "torch", "torchrl"} & set(sys.modules)
assert not slow, f"imported: {slow}"
sys.exit(code)
"""


def run_without_torch(*args: str) -> subprocess.CompletedProcess[str]:
    """Run ``plasticity-rl ARGS`` in a process of its own, which fails if it imports anything that takes seconds."""
    command = [sys.executable, "-c", WITHOUT_TORCH, *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)


def fit_tiny_cli(run_dir: Path, *args: str | Path, max_frames: int = 200) -> Result:
    """Train on the tiny env through the command line, and require success."""
    result = call("fit", *TINY, f"--max_frames={max_frames}", f"--trainer.default_root_dir={run_dir}", *args)
    assert result.code == 0, (result.code, result.err)
    return result


def printed_config(*args: str | Path) -> dict:
    """Return what ``fit ARGS --print_config`` prints."""
    result = call("fit", *args, "--print_config")
    assert result.code == 0, (result.code, result.err)
    return yaml.safe_load(result.out)


def callback_names(config: dict) -> list[str]:
    """Return the class paths of the callbacks in a config."""
    return [callback["class_path"] for callback in config["trainer"].get("callbacks") or []]


def write_yaml(path: Path, content: object) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


def append_callbacks(path: Path, callbacks: Sequence[tuple[str, dict]]) -> Path:
    """Write a config fragment that appends callbacks."""
    entries = [{"class_path": name, "init_args": dict(arguments)} for name, arguments in callbacks]
    return write_yaml(path, {"trainer": {"callbacks+": entries}})


def checkpoint(run_dir: Path, name: str = "last") -> dict:
    return torch.load(run_dir / "checkpoints" / f"{name}.ckpt", weights_only=True)


def tree(folder: Path) -> dict[str, str]:
    """Return a digest of every file below ``folder``."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def events(run_dir: Path) -> EventAccumulator:
    """Read all event files of a run, nothing sampled away."""
    kinds = ("scalars", "images", "tensors", "histograms", "compressedHistograms", "audio")
    return EventAccumulator(str(run_dir), size_guidance=dict.fromkeys(kinds, 0)).Reload()


def scalar_points(accumulator: EventAccumulator, tag: str) -> dict[int, float]:
    """Return value by frame; a frame that occurs twice is an error."""
    points = accumulator.Scalars(tag)
    assert len({point.step for point in points}) == len(points), f"{tag} has two values at one frame"
    return {point.step: point.value for point in points}


def assert_refused(result, *expected: str) -> None:
    assert result.code == 2, result.out + result.err
    assert len(result.err.strip().splitlines()) == 1, result.err
    assert result.err.startswith("error: ")
    assert "Traceback" not in result.err
    for text in expected:
        assert text in result.err
