"""Pictures of curves that ``plasticity-rl plot`` draws, of runs that are trained for them.

Run:  python docs/screenshots_of_curves.py [NAME ...]
Forty minutes on two cores for all of them; runs that are finished are kept, so that a second time takes seconds. Needs
the extras ``plot`` and ``atari``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

DOCS = Path(__file__).parent
COMMAND = (sys.executable, "-m", "plasticity_rl")
STATES = ("--config=mini_state", "--max_frames=8000", "--data.eval_every_n_frames=800")


def callback(name: str, *arguments: str) -> list[str]:
    """Return the options of one more callback."""
    return [f"--trainer.callbacks+=callbacks.{name}", *(f"--trainer.callbacks.{one}" for one in arguments)]


ARMS = {
    "quickstart": ["--config=quickstart"],
    "no_intervention": [*STATES],
    "reset": [*STATES, *callback("Reset", "at_frames=[4000]", "modules=[actor,critic]")],
    "redo": [*STATES, *callback("ReDo", "every_n_updates=100")],
    "l2_init": [*STATES, *callback("L2Init", "coefficient=0.01")],
    "layer_norm": [*STATES, *callback("LayerNorm")],
    "optimizer_reset": [*STATES, *callback("OptimizerReset", "every_n_frames=2000")],
    "shrink": [*STATES, *callback("ShrinkAndPerturb", "every_n_frames=3000", "shrink=0.8")],
    "self_normalized_reset": [*STATES, *callback("SelfNormalizedReset")],
    "road_runner": [
        "--config=atari/mini",
        "--config=probes/fraction_active_units",
        "--max_frames=60000",
        "--data.eval_every_n_frames=5000",
    ],
}


class Picture(NamedTuple):
    """A file, and the arms and seeds that it shows; its width in pixels, which keeps it small; options of ``plot``."""

    file: Path
    arms: Sequence[str]
    num_seeds: int = 1
    width: int = 1400
    options: Sequence[str] = ()


PICTURES = {
    "quickstart": Picture(DOCS / "quickstart.png", ["quickstart"]),
    "plot": Picture(DOCS / "plot.png", ["no_intervention", "reset"], 4, 1600),
    "plot_8_runs": Picture(
        DOCS / "images" / "plot_8_runs.png",
        [arm for arm in ARMS if arm not in ("quickstart", "road_runner")],
        width=1200,
    ),
    "road_runner": Picture(
        DOCS / "images" / "road_runner.png",
        ["road_runner"],
        5,
        options=["--title=", "--smooth=6000", "--tags", "eval/return", "train/return", "fau/critic"],
    ),
}


def draw(picture: Picture, folder: Path) -> None:
    """Train the runs that are missing, and draw all of them, in 256 colours."""
    runs = [folder / arm / f"seed{seed}" for arm in picture.arms for seed in range(1, picture.num_seeds + 1)]
    for run in runs:
        if not (run / "finished.yaml").is_file():
            seed = run.name.removeprefix("seed")
            options = [*ARMS[run.parent.name], f"--seed_everything={seed}", f"--trainer.default_root_dir={run}"]
            subprocess.run([*COMMAND, "fit", *options], check=True)
    subprocess.run([*COMMAND, "plot", *runs, "--out", picture.file, *picture.options], check=True)
    image = Image.open(picture.file).convert("RGB")
    size = (picture.width, round(image.height * picture.width / image.width))
    small = image.resize(size, Image.Resampling.LANCZOS).quantize(256, Image.Quantize.FASTOCTREE)
    small.save(picture.file, optimize=True)


def main() -> None:
    """Draw those that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PICTURES)} (default: all)")
    parser.add_argument("--folder", type=Path, default=Path("runs/curves"), help="where the runs are")
    given = parser.parse_args()
    for name in given.names or PICTURES:
        draw(PICTURES[name], given.folder)


if __name__ == "__main__":
    main()
