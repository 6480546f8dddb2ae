"""Our side as its user starts it: the command ``plasticity-rl fit`` with a callback that takes the measurements."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness.contest import ROOT

SIZES = {
    "full": ["--data.image_size=84", "--data.batch_size=256", "--model.hidden_dim=1024", "--model.num_channels=32"],
    "tiny": ["--data.image_size=16", "--data.batch_size=8", "--model.hidden_dim=8", "--model.num_channels=1"],
}
"""``full`` is the published agent; ``tiny`` has almost nothing to compute, for overhead and tests."""


LIGHTNING_FIRST = (
    "import lightning.pytorch, runpy; runpy.run_module('plasticity_rl', run_name='__main__', alter_sys=True)"
)
"""Program of another worktree: older commits import in an order in which a newer triton crashes (seen: d654b56)."""


def package(root: Path = ROOT) -> str:
    """Return where this package's side of a benchmark is in a worktree: older commits have it further up."""
    inner = "benchmarks.contestants"
    return inner if (root / inner.replace(".", "/")).is_dir() else "benchmarks"


def blank(root: Path = ROOT) -> list[str]:
    """Return the options of an environment that costs next to nothing."""
    return [f"--data.env={package(root)}.blank_env.make_env", "--data.task=blank_500"]


BLANK = blank()
QUICK = ["--data.task=blank_50", "--model.num_seed_frames=40"]
"""Short episodes and seed phase, where only that it runs is of interest."""
SHORT = ["--max_frames=20000", "--data.capacity=20000"]
SHORT += ["--data.eval_every_n_frames=20000", "--data.num_eval_episodes=1"]


def fit_command(callback: str, size: str, run_dir: str, *options: str, root: Path = ROOT) -> list[str]:
    """Return ``plasticity-rl fit`` with a callback of ``inside.py`` and everything else a run has by default.

    Args:
        callback: Name of the class.
        size: One of ``SIZES``.
        run_dir: New run folder.
        options: Further options of ``fit``, those of the callback included.
        root: Worktree whose command it is.
    """
    own = [option for option in options if option.startswith("--trainer.callbacks.")]
    others = [option for option in options if option not in own]
    program = ["-m", "plasticity_rl"] if root == ROOT else ["-c", LIGHTNING_FIRST]
    command = [sys.executable, *program, "fit", "--config", str(root / "configs" / "drqv2.yaml")]
    command += [*SIZES[size], *SHORT, f"--trainer.default_root_dir={run_dir}", *others]
    return [*command, f"--trainer.callbacks+={package(root)}.inside.{callback}", *own]


def variants(*, overlap: bool = False, compiled: bool = False) -> Iterator[tuple[str, list[str]]]:
    """Yield name and options of the ways to run ours, as far as this version has them.

    Args:
        overlap: Whether the environment step beside the updates is one of them.
        compiled: Whether ``torch.compile`` is.
    """
    from plasticity_rl import DrQV2, RLDataModule

    yield "float32", []
    yield "bf16", ["--trainer.precision=bf16-mixed"]
    if compiled and "compile" in inspect.signature(DrQV2.__init__).parameters:
        yield "float32, compiled", ["--model.compile=inductor"]
        yield "bf16, compiled", ["--trainer.precision=bf16-mixed", "--model.compile=inductor"]
    if overlap and "overlap" in inspect.signature(RLDataModule.__init__).parameters:
        yield "float32, overlap", ["--data.overlap=true"]
        yield "bf16, overlap", ["--trainer.precision=bf16-mixed", "--data.overlap=true"]
