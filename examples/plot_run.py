"""Draw the return and the fraction of active units of a run from its TensorBoard events.

Run:  python examples/plot_run.py runs/<run folder> --out docs/quickstart.png     (needs matplotlib, in the dev extra)
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def read_scalars(run_dir: str) -> dict[str, tuple[list[int], list[float]]]:
    """Return ``tag -> (env frames, values)`` of every scalar in a run folder."""
    events = EventAccumulator(run_dir, size_guidance={"scalars": 0}).Reload()
    return {
        tag: ([event.step for event in events.Scalars(tag)], [event.value for event in events.Scalars(tag)])
        for tag in events.Tags()["scalars"]
    }


def smooth(values: list[float], weight: float = 0.8) -> list[float]:
    """Exponential moving average, as TensorBoard's slider does it."""
    result: list[float] = []
    for value in values:
        result.append(value if not result else weight * result[-1] + (1 - weight) * value)
    return result


def draw(run_dir: str, out: Path) -> None:
    """Write the figure."""
    scalars = read_scalars(run_dir)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), constrained_layout=True)
    left.plot(*scalars["train/return"], color="0.75", label="training episodes")
    left.plot(*scalars["eval/return"], "o-", color="tab:blue", label="evaluation")
    left.set(xlabel="env frames", ylabel="return", ylim=(0, None))
    left.legend(frameon=False)
    for module in ("encoder", "actor", "critic"):
        frames, values = scalars[f"fau/{module}"]
        right.plot(frames, smooth(values), label=module)
    right.set(xlabel="env frames", ylabel="fraction of active units", ylim=(0, 1))
    right.legend(frameon=False)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir")
    parser.add_argument("--out", type=Path, default=Path("docs/quickstart.png"))
    options = parser.parse_args()
    draw(options.run_dir, options.out)
