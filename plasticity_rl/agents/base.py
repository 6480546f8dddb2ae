"""What every agent of the framework shares: clocks, replay-ratio credit, hooks, evaluation, exact checkpoints.

This is the protocol that callbacks program against; an agent adds its networks, its ``act`` and its
``update``. Callbacks reach modules, targets and optimizers through the methods below, never by attribute.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from plasticity_rl import scalars as rl_logging
from plasticity_rl.agents.data_checks import refuse_batches, refuse_other_observations
from plasticity_rl.agents.flops import flops_per_observation
from plasticity_rl.agents.hook_checks import (
    refuse_conflicts,
    refuse_doubles,
    refuse_shared_tags,
    refuse_without_pixels,
)
from plasticity_rl.agents.hooks import RLCallback, describe, in_order
from plasticity_rl.agents.jumps import TellsOfJumps, watched
from plasticity_rl.checkpoint_files import LAST_CHECKPOINT, refuse_other_architecture
from plasticity_rl.data.evaluation import Episode, all_episodes
from plasticity_rl.distributed import ranks
from plasticity_rl.errors import RunFailure, UserError
from plasticity_rl.machine.cores import use_more_for_large_updates
from plasticity_rl.machine.malloc import keep_freed_memory
from plasticity_rl.nn.hooks import evaluation_mode
from plasticity_rl.nn.precision import full_precision, warn_where_emulated, widen
from plasticity_rl.rng import NamedGenerators, global_rng_state, set_global_rng_state
from plasticity_rl.schedules import exact_ratio

LossTerm = Callable[[TensorDictBase], Tensor]
"""Scalar with gradient that a callback adds to a loss; see :meth:`RLModule.add_loss_term`."""
COUNTERS = ("env_frames", "env_steps", "num_updates")
"""Clocks: simulator frames (action repeat included), agent decisions, gradient updates. Never ``global_step``."""


class RLModule(TellsOfJumps):
    """Base of agents: owns the clocks and the random generators, dispatches hooks, evaluates, saves and restores.

    Args:
        replay_ratio: Gradient updates per env step (agent decision), > 0; any rational is exact.
        num_seed_frames: Env frames of uniform random actions before the first update.
        seed: Seed of every random number the agent draws.
    """

    def __init__(self, *, replay_ratio: float, num_seed_frames: int, seed: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.num_seed_frames = num_seed_frames
        self.env_frames = self.env_steps = self.num_updates = 0
        self.updates_from_frame = 0
        """Env frame before which no update credit is earned even after the seed phase: see ``data.starts_empty``."""
        self.replay_ratio = replay_ratio
        self.update_credit = Fraction(0)
        self.rng = NamedGenerators(seed)
        self.metrics: TensorDictBase = TensorDict({})
        self._loss_terms: dict[str, dict[str, LossTerm]] = {}
        self._own_losses: dict[str, Tensor] = {}
        self._added: dict[str, Tensor] = {}
        self._callbacks: list[RLCallback] | None = None
        self._built: list[str] = []
        self._global_rng: dict[str, Any] | None = None
        self.latest: dict[str, float] = {}
        self.last_events: dict[str, int] = {}
        self.eval_episodes: list[Episode] = []
        self.eval_returns: list[tuple[int, float]] = []
        self._last_log = (time.monotonic(), 0, 0)
        self._decided_at = 0
        """Number of updates when the step that is under way was decided."""

    # ---- clocks -----------------------------------------------------------------------------------------------------

    @property
    def replay_ratio(self) -> float:
        """Gradient updates per env step."""
        return float(self._replay_ratio)

    @replay_ratio.setter
    def replay_ratio(self, value: float) -> None:
        self._replay_ratio = exact_ratio(value)

    def advance_clocks(self, env_steps: int, frames_per_env_step: int) -> None:
        """Count this rank's env steps for all ranks, and earn update credit for those past the seed phase."""
        env_steps *= ranks.world_size_of(self)
        if self.env_frames >= max(self.num_seed_frames, self.updates_from_frame):
            self.update_credit += self._replay_ratio * env_steps
        self.env_steps += env_steps
        self.env_frames += env_steps * frames_per_env_step

    # ---- collecting beside learning ---------------------------------------------------------------------------------

    def begin_next_step(self) -> None:
        """With ``data.overlap``, decide the next actions now and let the environments step beside the updates."""
        self._decided_at = self.num_updates
        if self.data.overlap and self.env_frames < self.data.max_frames:
            self.data.collector.begin()

    def next_batch(self) -> TensorDictBase:
        """Return a batch of the replay on the agent's device; with ``data.overlap``, begin the next of this tick."""
        batch = self.data.replay.sample().to(self.device)
        if self.data.overlap and self.update_credit >= 1:
            self.data.replay.sample_ahead()
        return batch

    # ---- the loop ----------------------------------------------------------------------------------------------------

    def training_step(self, tick: int, batch_idx: int = 0) -> None:
        """One env step of every env, then as many gradient updates as the replay ratio has earned."""
        self.restore_global_rng()
        data = self.data
        step = data.collector.step()
        data.replay.write(step)
        self.advance_clocks(data.num_envs, data.action_repeat)
        self.dispatch("on_env_step", step)
        for episode_return, env_steps in data.finished_episodes(step):
            self.log_scalars({"train/return": episode_return, "train/episode_steps": env_steps})
            self.dispatch("on_episode_end", episode_return, env_steps)
        self.begin_next_step()

        while self.update_credit >= 1 and data.can_sample:
            self.update_credit -= 1
            self.dispatch("on_update_start")
            batch = self.next_batch()
            self.metrics = self.update(batch)
            self.num_updates += 1
            self.dispatch("on_update_end", batch, self.metrics)
        self.log_progress(self.metrics)
        self.stop_when_done()

    # ---- losses and shared measurements ------------------------------------------------------------------------------

    def add_loss_term(self, loss: str, name: str, term: LossTerm) -> None:
        """Add ``term(batch)``, a scalar, to the loss called ``loss`` at every update; logged under ``<name>/loss``.

        Call it from ``on_fit_start`` or later: ``setup`` drops the terms of an earlier Trainer.

        Args:
            loss: One of ``loss_optimizers``.
            name: Prefix of the tag.
            term: Function of the batch as sampled, with what the loss made of it: ``("augmented", "pixels")``,
                ``("augmented", "next", "pixels")`` (``state`` instead of ``pixels`` where the agent observes that), and
                ``features`` (the encoder's output, with gradient where the loss trains the encoder, else detached).
        """
        if loss not in self.loss_optimizers:
            raise UserError(f"no loss {loss!r} in {type(self).__name__}; there are {list(self.loss_optimizers)}")
        terms = self._loss_terms.setdefault(loss, {})
        if name in terms:
            raise UserError(f"the {loss} loss already has a term called {name!r}")
        terms[name] = term

    def loss_terms(self, loss: str, batch: TensorDictBase, **seen: Tensor) -> dict[str, Tensor]:
        """Evaluate the terms that callbacks added to ``loss``.

        Args:
            loss: Name of the loss.
            batch: Batch as sampled.
            **seen: Observations as the loss used them, ``pixels`` and ``next_pixels`` (or ``state`` and
                ``next_state``), and ``features``.
        """
        terms = self._loss_terms.get(loss)
        if not terms:
            return {}
        inputs = batch.copy()
        inputs["features"] = widen(seen["features"])
        inputs["augmented", self.observation_key] = seen[self.observation_key]
        inputs["augmented", "next", self.observation_key] = seen[f"next_{self.observation_key}"]
        with full_precision(self.device):
            values = {name: term(inputs) for name, term in sorted(terms.items())}
        self._added[loss] = torch.stack([value.detach() for value in values.values()]).sum()
        return values

    def with_terms(self, loss: str, value: Tensor, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the agent's own loss plus the terms of callbacks, and keep the former for :meth:`own_loss`."""
        self._own_losses[loss] = value.detach()
        return sum(terms.values(), value)

    def own_loss(self, loss: str, total: Tensor) -> Tensor:
        """Return the last value of a loss without the terms that callbacks added to it, a detached scalar.

        Args:
            loss: One of ``loss_optimizers``.
            total: Its value with them, for agents that do not use :meth:`with_terms`.
        """
        if loss in self._own_losses:
            return self._own_losses[loss]
        return total.detach() - self._added.get(loss, torch.zeros_like(total))

    def settings(self) -> dict[str, float]:
        """Return what the agent is set to at this moment, by log tag."""
        return {"schedule/replay_ratio": self.replay_ratio}

    # ---- hooks and logging ------------------------------------------------------------------------------------------

    def attach(self, callbacks: Iterable[pl.Callback]) -> None:
        """Dispatch to the interventions and probes among ``callbacks`` from now on; a Trainer's are found by itself."""
        self._callbacks = in_order(callbacks)
        self.listen(self._callbacks)

    def dispatch(self, hook: str, *args: Any) -> None:
        """Call ``hook(agent, *args)`` on the attached interventions and probes, in their fixed order."""
        if self._callbacks is None:
            self.attach(self.trainer.callbacks if self._trainer is not None else [])  # type: ignore[attr-defined]
        assert self._callbacks is not None
        self._once_per_update = {} if hook == "on_update_end" else None
        try:
            with full_precision(self.device):
                for callback in self._callbacks:
                    with watched(self, callback, hook):
                        getattr(callback, hook)(self, *args)
        finally:
            self._once_per_update = None

    def log_scalars(self, scalars: Mapping[str, Any]) -> None:
        """Write scalars at the current env frame to the Trainer's loggers, and keep them, as numbers, in ``latest``."""
        self.latest.update(rl_logging.log_scalars(self.trainer.loggers, scalars, self.env_frames))

    def log_progress(self, metrics: Mapping[str, Any]) -> None:
        """Every ``trainer.log_every_n_steps`` env steps: the last update's metrics, the clocks, settings and speeds."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        interval = max(every, 1) * self.data.env_steps_per_tick
        if self.env_steps // interval == (self.env_steps - self.data.env_steps_per_tick) // interval:
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

    # ---- Lightning: start, evaluation, checkpoints ------------------------------------------------------------------

    def configure_callbacks(self) -> list[pl.Callback]:
        """Let interventions build their part of the agent: Lightning calls this before any ``setup`` and optimizer.

        Raises:
            UserError: Also when ``trainer.precision`` is none of ``precisions``, or the data module does not fit.
        """
        if (precision := str(self.trainer.precision)) not in self.precisions:
            raise UserError(
                f"trainer.precision={precision}: {type(self).__name__} trains in one of {list(self.precisions)}"
            )
        callbacks: list[pl.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        self.build(callbacks)
        if self.trainer.state.fn == TrainerFn.FITTING:
            refuse_other_observations(self.observation_key, self.data)
            refuse_batches(self.num_seed_frames, self.data, callbacks)
        return []

    def build(self, callbacks: Iterable[pl.Callback]) -> None:
        """Refuse callbacks that cannot run together, then let them change the architecture, once per agent.

        Raises:
            UserError: When two of them conflict or would write one tag, one needs pixels that the agent does not see,
                or the agent was built with others before.
        """
        callbacks = list(callbacks)
        for callback in callbacks:
            if isinstance(callback, RLCallback):
                callback.resolve(self)
        refuse_doubles(callbacks)
        ours = in_order(callbacks)
        refuse_without_pixels(ours, self.observation_key)
        refuse_conflicts(self, ours)
        refuse_shared_tags(ours)
        builders = [callback for callback in ours if callback.builds]
        keys = [callback.state_key for callback in builders]
        if self._built and self._built != keys:
            built = ", ".join(self._built)
            raise UserError(f"this {type(self).__name__} was built with {built}; make a new one for other callbacks")
        if not self._built:
            for callback in builders:
                callback.build(self)
            self._built, self._own_optimizers = keys, None

    def setup(self, stage: str) -> None:
        """Forget what belonged to an earlier Trainer."""
        keep_freed_memory()
        if stage == "fit":
            if self.trainer.world_size == 1 and self.trainer.strategy.root_device.type == "cpu":
                use_more_for_large_updates(lambda: flops_per_observation(self) * self.data.batch_size)
            warn_where_emulated(str(self.trainer.precision), self.trainer.strategy.root_device)
        self.rng.rank = self.global_rank
        self._callbacks, self._loss_terms = None, {}

    def on_train_start(self) -> None:
        """Evaluate the untrained agent at frame 0, as the reference does; stop at once if already done."""
        self._last_log = (time.monotonic(), self.env_frames, self.num_updates)
        if self.data.starts_empty:
            self._collect_before_updates()
        if self.env_frames == 0:
            with evaluation_mode(self):  # as in Lightning's evaluations: the ranks play different numbers of episodes
                for episode in self.data.val_dataloader():
                    self.validation_step(episode, 0)
                self._log_evaluation()
        self.stop_when_done()

    def _collect_before_updates(self) -> None:
        """Begin with a second seed phase, in which the policy acts: the replay of the checkpoint is gone."""
        self.updates_from_frame = self.env_frames + self.num_seed_frames
        warnings.warn(
            f"the replay of this checkpoint is not in {self.data.replay_folder}: the run goes on with an empty one, "
            f"and updates nothing before env frame {self.updates_from_frame}; it will differ from the original run",
            stacklevel=2,
        )

    def stop_when_done(self) -> None:
        """Ask the Trainer to stop once ``max_frames`` are collected."""
        if self.env_frames >= self.data.max_frames:
            self.trainer.should_stop = True

    def restore_global_rng(self) -> None:
        """Restore the process-wide generators, as the last step of a resume: anything set up earlier may draw."""
        if self._global_rng is not None:
            set_global_rng_state(self._global_rng)
            self._global_rng = None

    def validation_step(self, episode: int, batch_idx: int) -> None:
        """Play one deterministic evaluation episode, if there is one of this number."""
        if episode < self.data.num_eval_episodes:
            self.eval_episodes.append(self.data.evaluate(lambda obs: self.act(obs, explore=False), episode))

    def on_validation_epoch_end(self) -> None:
        """Log mean and standard deviation of the evaluation episodes' returns."""
        scalars = self._log_evaluation()
        # Through Lightning as well, for checkpoint file names, ``monitor`` and what ``Trainer.validate`` returns: that
        # takes logged metrics only, and a metric called ``step`` puts them on our x-axis.
        validating = self.trainer.state.fn == TrainerFn.VALIDATING
        frames = float(self.env_frames)
        self.log_dict({**scalars, "env_frames": frames, **({"step": frames} if validating else {})}, logger=validating)

    def _log_evaluation(self) -> dict[str, Tensor]:
        self.eval_episodes = all_episodes(self.eval_episodes)
        returns = torch.tensor([episode.episode_return for episode in self.eval_episodes], dtype=torch.float64)
        scalars = {"eval/return": returns.mean(), "eval/return_std": returns.std(correction=0)}
        self.dispatch("on_evaluation", self.eval_episodes)
        self.eval_returns.append((self.env_frames, float(returns.mean())))
        self.eval_episodes = []
        self.log_scalars(scalars)
        return scalars

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add clocks, credit and generators, as tensors and plain data."""
        checkpoint["rl"] = {
            **{name: getattr(self, name) for name in COUNTERS},
            "updates_from_frame": self.updates_from_frame,
            "replay_ratio": [self._replay_ratio.numerator, self._replay_ratio.denominator],
            "update_credit": [self.update_credit.numerator, self.update_credit.denominator],
            "rng": self.rng.state_dict(),
            "global_rng": global_rng_state(),
            "eval_returns": [list(pair) for pair in self.eval_returns],
            "callbacks": describe(self.trainer.callbacks) if self._trainer is not None else [],  # type: ignore[attr-defined]
            "architecture": {name: list(p.shape) for name, p in self.named_parameters()},
        }
        if self._trainer is not None:
            ranks.add_other_ranks(checkpoint, type(self.data).__qualname__)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what ``on_save_checkpoint`` added, refusing a checkpoint of another network by name."""
        if "rl" not in checkpoint:
            raise UserError("the checkpoint was not written by plasticity_rl: it holds no 'rl' entry")
        if self._trainer is not None and (data := checkpoint.get(key := type(self.data).__qualname__)):
            self.data.refuse_other_identity(data["identity"])  # before the networks, whose shapes depend on the task
            if self.trainer.state.fn == TrainerFn.FITTING:
                ranks.refuse_other_world_size(checkpoint, self.data.world_size)
                ranks.take_own_part(checkpoint, key, self.global_rank)
        state = checkpoint["rl"]
        refuse_other_architecture(state["architecture"], {name: list(p.shape) for name, p in self.named_parameters()})
        for name in COUNTERS:
            setattr(self, name, state[name])
        self.updates_from_frame = state.get("updates_from_frame", 0)
        self._replay_ratio = Fraction(*state["replay_ratio"])
        self.update_credit = Fraction(*state["update_credit"])
        self.eval_returns = [(frames, value) for frames, value in state["eval_returns"]]
        self.rng.load_state_dict(state["rng"])
        self._global_rng = state["global_rng"]


def as_agent(module: pl.LightningModule) -> RLModule:
    """Return ``module`` as an agent of this framework.

    Raises:
        UserError: When it is another kind of LightningModule.
    """
    if not isinstance(module, RLModule):
        raise UserError(f"interventions and probes need an agent of plasticity_rl, but got {type(module).__name__}")
    return module
