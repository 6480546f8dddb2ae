"""A progress bar over env frames."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks.progress import ProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from tqdm import tqdm

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.agents.hooks import callbacks_of, headlines

FRAMES = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}"
TIMES = ("{elapsed}<{remaining}", "{rate_fmt}")
LEAST_PICTURE = 5
"""Columns."""
SECONDS_IN_A_FILE = 10.0
"""Between two lines where one cannot be drawn over the other."""


class Bar(tqdm):
    """A bar that leaves out what the terminal is too narrow for, instead of cutting it off.

    Attributes:
        results: Returns what stands before the time.
        rates: Returns what stands behind it.
    """

    results: Callable[[], Sequence[str]] = tuple
    rates: Callable[[], Sequence[str]] = tuple

    def __str__(self) -> str:
        """Return the line; of the results, the time and the rates, the first ones that fit."""
        details, results = self.format_dict, list(self.results())
        behind = [*TIMES, *self.rates()]
        for left_out in range(len(results) + len(behind) + 1):
            kept = len(results) + len(behind) - left_out
            shown, times = ", ".join(results[:kept]), ", ".join(behind[: max(kept - len(results), 0)])
            details["bar_format"] = FRAMES + f" {shown}" * bool(shown) + f" [{times}]" * bool(times)
            usual = len(self.format_meter(**{**details, "ncols": None}))  # with a picture of 10 columns
            if details["ncols"] is None or usual - 10 + LEAST_PICTURE <= details["ncols"]:
                break
        return self.format_meter(**details)


class Lines(Bar):
    """The same for a file or a pipe: a line now and then."""

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        """Return what writes a state: below the one before."""
        return lambda text: print(text, file=file, flush=True) if text.strip() else None


class FrameProgressBar(ProgressBar):
    """Shows env frames, last return, the critic's FAU, time, frames per second, updates and their rate.

    As many of these, in this order, as the terminal has room for: return and FAU fit into 60 columns. FAU, and what
    other probes sum a module up by (``headline``), only where a run measures it. Above the bar, a line for every
    evaluation and for everything that an intervention does at some frame.

    Where the standard error is no terminal (a file, a pipe) it is a line every ten seconds; notebooks draw it over.

    Args:
        refresh_seconds: Least time between two redraws on a terminal.
    """

    def __init__(self, refresh_seconds: float = 0.5) -> None:
        super().__init__()
        self.refresh_seconds = refresh_seconds
        self._bar: Bar | None = None
        self._enabled = True

    @property
    def is_enabled(self) -> bool:
        """Whether it is shown; ``LightningModule.print`` asks, and then lets it print."""
        return self._enabled

    def disable(self) -> None:
        """Called by Lightning on ranks other than 0."""
        self._enabled = False

    def enable(self) -> None:
        """Show the bar."""
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar at the current frame."""
        agent = as_agent(pl_module)
        over = can_draw_over()
        bar = (Bar if over else Lines)(
            total=agent.data.max_frames,
            initial=agent.env_frames,
            unit="frame",
            unit_scale=True,
            dynamic_ncols=True,
            mininterval=self.refresh_seconds if over else SECONDS_IN_A_FILE,
            disable=not self._enabled or sys.stderr is None,
        )
        bar.results, bar.rates = lambda: _results(trainer, agent), lambda: _rates(agent)
        self._bar = bar

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Advance to the present frame."""
        agent = as_agent(pl_module)
        self._show_events(agent)
        # A terminal that is gone ends no run here: its signal does, with a checkpoint.
        with contextlib.suppress(OSError):
            if self._bar is not None:
                self._bar.update(agent.env_frames - self._bar.n)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say how an evaluation ended, after what happened before it."""
        agent = as_agent(pl_module)
        if self._bar is not None and trainer.state.fn == TrainerFn.FITTING:
            self._show_events(agent)
            frame, mean = agent.eval_returns[-1]
            self._say(f"return {mean:.1f} at frame {frame}", sys.stderr)

    def _show_events(self, agent: RLModule) -> None:
        while agent.event_lines:
            self._say(agent.event_lines.popleft(), sys.stderr)

    def _say(self, line: str, file: Any) -> None:
        if self._enabled and file is not None:
            with contextlib.suppress(OSError):
                if isinstance(self._bar, Lines):
                    print(line, file=file, flush=True)  # tqdm would write the last state once more
                else:
                    tqdm.write(line, file=file)

    def close(self) -> None:
        """Draw the last state and leave it there; what is printed from now on stands below."""
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.close()
            self._bar = None

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        self.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the bar, so that the error stands on a line of its own."""
        self.close()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        self._say(" ".join(map(str, args)), sys.stdout)


def can_draw_over() -> bool:
    """Whether a line on the standard error can be drawn over: on a terminal, and below a cell of a notebook."""
    terminal = sys.stderr is not None and sys.stderr.isatty()
    return terminal or "ipykernel" in sys.modules


def _results(trainer: pl.Trainer, agent: RLModule) -> list[str]:
    shown = [f"return {agent.eval_returns[-1][1]:.0f}"] if agent.eval_returns else []
    module = agent.value_module
    tags = {label: tag.format(module) for label, tag in headlines(callbacks_of(trainer)).items()}
    return shown + [f"{module} {label} {agent.latest[tag]:.2f}" for label, tag in tags.items() if tag in agent.latest]


def _rates(agent: RLModule) -> list[str]:
    speed = agent.latest.get("speed/updates_per_second")
    return [f"{agent.num_updates:,} updates", *([f"{speed:.3g} updates/s"] if speed is not None else [])]
