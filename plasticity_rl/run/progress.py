"""A progress bar over env frames."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks.progress import ProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from tqdm import tqdm

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.agents.hooks import callbacks_of, headlines


class FrameProgressBar(ProgressBar):
    """Shows env frames, frames per second, time left, last return, the critic's FAU, updates and their rate.

    FAU, and what other probes sum a module up by (``headline``), only where a run measures it: on a terminal of 80
    columns there is room for the return and one of those. Above the bar, a line for every evaluation and for everything
    that an intervention does at some frame.

    Args:
        refresh_seconds: Least time between two redraws.
    """

    def __init__(self, refresh_seconds: float = 0.5) -> None:
        super().__init__()
        self.refresh_seconds = refresh_seconds
        self._bar: tqdm | None = None
        self._enabled = True

    def disable(self) -> None:
        """Called by Lightning on ranks other than 0."""
        self._enabled = False

    def enable(self) -> None:
        """Show the bar."""
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar at the current frame."""
        agent = as_agent(pl_module)
        self._bar = tqdm(
            total=agent.data.max_frames,
            initial=agent.env_frames,
            unit="frame",
            unit_scale=True,
            dynamic_ncols=True,
            mininterval=self.refresh_seconds,
            disable=not self._enabled,
        )

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Advance by the frames of one tick."""
        agent, bar = as_agent(pl_module), self._bar
        self._show_events(agent)
        with contextlib.suppress(
            OSError
        ):  # a terminal that is gone ends no run here: its signal does, with a checkpoint
            if bar is not None and bar.update(agent.data.frames_per_tick):
                bar.set_postfix(self._postfix(trainer, pl_module), refresh=False)

    def _postfix(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, str]:
        agent = as_agent(pl_module)
        shown = {}
        if agent.eval_returns:
            shown["return"] = f"{agent.eval_returns[-1][1]:.0f}"
        module = agent.value_module
        for label, tag in headlines(callbacks_of(trainer)).items():
            if tag.format(module) in agent.latest:
                shown[f"{module} {label}"] = f"{agent.latest[tag.format(module)]:.2f}"
        shown["updates"] = f"{agent.num_updates:,}"
        if "speed/updates_per_second" in agent.latest:
            shown["updates/s"] = f"{agent.latest['speed/updates_per_second']:.3g}"
        return shown

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say how an evaluation ended, after what happened before it."""
        agent = as_agent(pl_module)
        if self._bar is not None and trainer.state.fn == TrainerFn.FITTING:
            self._show_events(agent)
            frame, mean = agent.eval_returns[-1]
            self._say(f"return {mean:.1f} at frame {frame}")

    def _show_events(self, agent: RLModule) -> None:
        while agent.event_lines:
            self._say(agent.event_lines.popleft())

    def _say(self, line: str) -> None:
        if self._enabled and self._bar is not None:
            with contextlib.suppress(OSError):
                tqdm.write(line, file=sys.stderr)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the bar, so that the error stands on a line of its own."""
        self.on_train_end(trainer, pl_module)

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        tqdm.write(" ".join(map(str, args)))
