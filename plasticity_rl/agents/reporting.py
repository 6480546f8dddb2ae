"""What an agent tells while it is trained: hooks to callbacks, scalars and texts to loggers, how far it has come."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from tensordict import TensorDictBase

from plasticity_rl import scalars as rl_logging
from plasticity_rl.agents.calls import Call, calls_of
from plasticity_rl.agents.clocks import KeepsTime
from plasticity_rl.agents.hooks import RLCallback, callbacks_of, in_order
from plasticity_rl.checkpoint_files import LAST_CHECKPOINT
from plasticity_rl.distributed import ranks
from plasticity_rl.errors import RunFailure
from plasticity_rl.nn.precision import full_precision


class Reports(KeepsTime):
    """The part of the agent protocol that dispatches hooks and logs.

    Args:
        **clocks: Of :class:`KeepsTime`.
    """

    def __init__(self, **clocks: Any) -> None:
        super().__init__(**clocks)
        self._callbacks: list[RLCallback] | None = None
        self._calls: tuple[list[RLCallback], dict[str, list[Call]]] = ([], {})
        self.latest: dict[str, float] = {}
        self.last_events: dict[str, int] = {}
        self.played_by_task: dict[str, list[tuple[float, int]]] = {}
        """Return and env steps of the newest evaluation's episodes; of other tasks those that a callback has played."""
        self.event_counts: dict[str, int] = {}
        """How often each intervention has acted, in all starts of the run."""
        self.event_lines: deque[str] = deque(maxlen=100)
        """What interventions did, for whoever shows it and takes it out."""
        self._last_log = (time.monotonic(), 0, 0)
        self._decided_at = 0
        """Number of updates when the step that is under way was decided."""

    def settings(self) -> dict[str, float]:
        """Return what the agent is set to at this moment, by log tag."""
        return {"schedule/replay_ratio": self.replay_ratio}

    def attach(self, callbacks: Iterable[pl.Callback]) -> None:
        """Dispatch to the interventions and probes among ``callbacks`` from now on; a Trainer's are found by itself."""
        self._callbacks = in_order(callbacks)
        self.listen(self._callbacks)

    def dispatch(self, hook: str, *args: Any) -> None:
        """Call ``hook(agent, *args)`` on those attached interventions and probes that are due, in their fixed order."""
        if self._callbacks is None:
            self.attach(callbacks_of(self.trainer) if self._trainer is not None else [])
        assert self._callbacks is not None
        attached, calls = self._calls
        if attached is not self._callbacks:
            attached, calls = self._calls = (self._callbacks, {})
        if hook not in calls:
            calls[hook] = calls_of(self, attached, hook)
        if calls[hook]:
            with full_precision(self.device):
                for call in calls[hook]:
                    call.make(self, hook, args)

    def end_update(self, batch: TensorDictBase, metrics: TensorDictBase) -> None:
        """Call ``on_update_end``, during which what probes measure is shared."""
        with self.sharing():
            self.dispatch("on_update_end", batch, metrics)

    def log_scalars(self, scalars: Mapping[str, Any]) -> None:
        """Write scalars at the current env frame to the Trainer's loggers, and keep them, as numbers, in ``latest``."""
        self.latest.update(rl_logging.log_scalars(self.trainer.loggers, scalars, self.env_frames))

    def log_progress(self, metrics: Mapping[str, Any]) -> None:
        """Every ``trainer.log_every_n_steps`` env steps: the last update's metrics, the clocks, settings and speeds."""
        if not self.every(self.trainer.log_every_n_steps):  # type: ignore[attr-defined]
            return
        then, frames, updates = self._last_log
        now = time.monotonic()
        seconds = max(now - then, 1e-9)
        self._last_log = (now, self.env_frames, self.num_updates)
        self.log_scalars(
            {
                **rl_logging.with_term_sums(ranks.mean_over_ranks(self, metrics)),
                **self.settings(),
                "clock/env_steps": self.env_steps,
                "clock/num_updates": self.num_updates,
                **({"clock/policy_lag_updates": self.num_updates - self._decided_at} if self.data.overlap else {}),
                "speed/frames_per_second": (self.env_frames - frames) / seconds,
                "speed/updates_per_second": (self.num_updates - updates) / seconds,
            }
        )

    def log_event(self, name: str, text: str) -> None:
        """Mark that an intervention acted: a scalar ``intervention/<name>`` = 1 and a line of text."""
        self.last_events[name] = self.env_frames
        self.event_counts[name] = self.event_counts.get(name, 0) + 1
        self.event_lines.append(text)
        self.log_scalars({f"intervention/{name}": 1.0})
        rl_logging.log_text(self.trainer.loggers, f"intervention/{name}", text, self.env_frames)

    def env_failure(self, failed: str) -> Exception:
        """Return what to raise when an environment failed while training; a callback may know a reason before that.

        Args:
            failed: Which environment, and what it raised.
        """
        self.dispatch("on_env_failure", failed)
        return RunFailure(f"{failed} {self.where_it_stands()}")

    def where_it_stands(self) -> str:
        """Say at which frame a run is and how it can go on, for the one line that a run leaves when it ends early."""
        folders = [getattr(callback, "dirpath", None) for callback in self.trainer.checkpoint_callbacks]
        last = [path for folder in folders if folder and (path := Path(folder, LAST_CHECKPOINT)).is_file()]
        return f"at env frame {self.env_frames}; " + (
            f"the last checkpoint is {last[0]}: go on with --ckpt_path last" if last else "there is no checkpoint"
        )
