"""What every agent of the framework shares: the loop, evaluation, exact checkpoints.

With the files that it is built on, from ``access.py`` up, this is the protocol that callbacks program against; an agent
adds its networks, ``choose`` and ``update``. Callbacks reach modules, targets and optimizers through methods, never by
attribute.
"""

from __future__ import annotations

import functools
import math
import os
import time
import warnings
from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from plasticity_rl.agents.data_checks import (
    refuse_batches,
    refuse_other_actions,
    refuse_other_observations,
    refuse_priorities_of_nobody,
)
from plasticity_rl.agents.final_evaluation import log_final_evaluation
from plasticity_rl.agents.flops import flops_per_observation
from plasticity_rl.agents.graph_rules import notes, refuse_uncapturable
from plasticity_rl.agents.graphs import StaticUpdates
from plasticity_rl.agents.hook_checks import refuse_doubles, refuse_unfit
from plasticity_rl.agents.hooks import RLCallback, callbacks_of, describe, in_order
from plasticity_rl.agents.options import RECORD, record_of
from plasticity_rl.agents.reporting import Reports
from plasticity_rl.agents.resume import accept
from plasticity_rl.agents.resume_rules import Change
from plasticity_rl.agents.spelling import absolute
from plasticity_rl.agents.trainer_options import adapt_plain_trainer
from plasticity_rl.checkpoint_files import refuse_other_architecture
from plasticity_rl.data.evaluation import Episode, all_episodes
from plasticity_rl.distributed import ranks
from plasticity_rl.errors import UserError
from plasticity_rl.machine.cores import LARGE_BATCH_FLOPS, use_more_for_large_updates
from plasticity_rl.machine.malloc import keep_freed_memory
from plasticity_rl.nn.hooks import evaluation_mode
from plasticity_rl.nn.precision import hint_where_faster, precision_of, warn_where_emulated
from plasticity_rl.rng import NamedGenerators, global_rng_state, set_global_rng_state


class RLModule(Reports):
    """Base of agents: collects, updates, evaluates, saves and restores.

    Args:
        replay_ratio: Gradient updates per env step (agent decision), > 0; any rational is exact.
        num_seed_frames: Env frames of uniform random actions before the first update.
        seed: Seed of every random number the agent draws.
    """

    def __init__(self, *, replay_ratio: float, num_seed_frames: int, seed: int) -> None:
        super().__init__(replay_ratio=replay_ratio, num_seed_frames=num_seed_frames)
        self.automatic_optimization = False
        self.rng = NamedGenerators(seed)
        self.metrics: TensorDictBase = TensorDict({})
        self._built: list[str] = []
        self._global_rng: dict[str, Any] | None = None
        self.eval_episodes: list[Episode] = []
        self.eval_returns: list[tuple[int, float]] = []
        self.weights_from: str | None = None
        """The checkpoint whose weights the run began with, see ``initial_weights.py``."""
        self._has_weights = False
        self.option_changes: list[dict[str, Any]] = []
        """What was changed when the run went on: ``at_env_frames``, ``option`` with both values, ``effect``."""
        self._options: dict[str, Any] | None = None
        self.changes_of_this_start: list[dict[str, Any]] = []
        """The newest of ``option_changes``, and what came and went of callbacks that only watch."""

    def options(self) -> dict[str, Any]:
        """Return the constructor's arguments by name: what ``save_hyperparameters`` has kept."""
        return {name: value for name, value in self.hparams.items() if name != "_instantiator"}

    def began_with(self, checkpoint: str | os.PathLike[str], *, loaded: bool = True) -> None:
        """Note the checkpoint whose weights the run begins, or began, with."""
        self.weights_from, self._has_weights = str(absolute(checkpoint)), loaded

    # ---- acting ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, observations: Tensor, *, explore: bool) -> Tensor:
        """Return actions ``(batch, action_dim)`` for observations, on their device; uniform in the seed phase.

        Those are float32 in [-1, 1], or int64 where actions are discrete.
        """
        rank = self.global_rank if self._trainer is not None else 0
        generator = self.rng.get(f"explore/rank{rank}", self.device)
        if explore and self.frames_of_exploration < self.num_seed_frames:
            shape, device = (len(observations), self.action_dim), self.device
            if self.num_actions:
                actions = torch.randint(self.num_actions, shape, generator=generator, device=device)
            else:
                actions = torch.rand(shape, generator=generator, device=device) * 2.0 - 1.0
        else:
            actions = self.choose(observations.to(self.device), generator if explore else None)
        return actions.to(observations.device)

    # ---- collecting beside learning ---------------------------------------------------------------------------------

    def begin_next_step(self) -> None:
        """With ``data.overlap``, decide the next actions now and let the environments step beside the updates."""
        self._decided_at = self.num_updates
        if self.data.overlap:  # also at the last frame: a run that is lengthened is the longer run
            self.data.collector.begin()

    def next_batch(self) -> TensorDictBase:
        """Return a batch of the replay on the agent's device; with ``data.overlap``, begin the next of this step."""
        batch = self.data.replay.sample()
        if batch[self.observation_key].device != self.device:
            batch = batch.to(self.device)
        if self.data.overlap and self.update_credit >= 1:
            self.data.replay.sample_ahead()
        return batch

    def switch_task(
        self, task: str, *, seed: int, empty_replay: bool = False, restart_exploration: bool = False
    ) -> None:
        """Go on in ``task``, of equal shapes, and tell every callback; to be called between two env steps.

        Args:
            task: Task name.
            seed: Seed of its fresh environments.
            empty_replay: Forget what was collected, and update nothing until ``num_seed_frames`` more are.
            restart_exploration: Explore as at the start of the run.
        """
        self.data.switch_task(task, seed=seed, empty_replay=empty_replay)
        if empty_replay:
            self.wait_for_experience()
        if restart_exploration:
            self.restart_exploration()
        self.dispatch("on_task_switch", task)

    def learn(self, batch: TensorDictBase) -> TensorDictBase:
        """Do :meth:`update` on a batch of the loop: captured and replayed with ``cuda_graph``."""
        if not self.cuda_graph:
            return self.update(batch)
        if self.static_updates is None:
            attached = callbacks_of(self.trainer) if self._trainer is not None else self._callbacks
            self.static_updates = StaticUpdates(self, attached or ())
        return self.static_updates(batch)

    # ---- the loop ----------------------------------------------------------------------------------------------------

    def training_step(self, tick: int, batch_idx: int = 0) -> None:
        """One tick: env steps of every env, after each as many gradient updates as the replay ratio has earned."""
        self.restore_global_rng()
        data = self.data
        for _ in self.steps_of_tick():
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
                self.dispatch("on_batch", batch)
                self.metrics = self.learn(batch)
                self.num_updates += 1
                self.end_update(batch, self.metrics)
            self.log_progress(self.metrics)
        self.stop_when_done()

    # ---- Lightning: start, evaluation, checkpoints ------------------------------------------------------------------

    def configure_callbacks(self) -> list[pl.Callback]:
        """Let interventions build their part of the agent: Lightning calls this before any ``setup`` and optimizer.

        Raises:
            UserError: Also when ``trainer.precision`` is none of ``precisions``, or the data module does not fit.
        """
        ranks.be_first_when_alone(self.trainer)
        if (precision := str(self.trainer.precision)) not in self.precisions:
            raise UserError(
                f"trainer.precision={precision}: {type(self).__name__} trains in one of {list(self.precisions)}"
            )
        callbacks = callbacks_of(self.trainer)
        self.build(callbacks)
        if self.trainer.state.fn == TrainerFn.FITTING:
            adapt_plain_trainer(self.trainer)
            refuse_other_observations(self.observation_key, self.data)
            refuse_other_actions(type(self).__name__, self.num_actions, self.data)
            refuse_priorities_of_nobody(type(self).__name__, self.sets_priorities, self.data)
            refuse_batches(self.num_seed_frames, self.data, callbacks)
        return []

    def build(self, callbacks: Iterable[pl.Callback]) -> None:
        """Refuse callbacks that cannot run together, then let them change the architecture, once per agent.

        Raises:
            UserError: When two of them conflict or would write one tag, one needs pixels that the agent does not see
                or lacks a method, or the agent was built with others before.
        """
        callbacks = list(callbacks)
        for callback in callbacks:
            if isinstance(callback, RLCallback):
                callback.join(self)
        refuse_doubles(callbacks)
        ours = in_order(callbacks)
        refuse_unfit(self, ours)
        builders = [callback for callback in ours if callback.builds]
        keys = [callback.state_key for callback in builders]
        if self._built and self._built != keys:
            built = ", ".join(self._built)
            raise UserError(f"this {type(self).__name__} was built with {built}; make a new one for other callbacks")
        if not self._built:
            if builders and self._has_weights:
                shaping = ", ".join(type(callback).__name__ for callback in builders)
                raise UserError(f"{shaping} would build over the initial weights; give init_weights the callbacks too")
            for callback in builders:
                callback.build(self)
            for callback in builders:
                callback.after_build(self)
            self._built, self._own_optimizers = keys, None

    def setup(self, stage: str) -> None:
        """Forget what belonged to an earlier Trainer."""
        keep_freed_memory()
        if stage == "fit":
            self._use_the_machine()
        self.rng.rank = self.global_rank
        self._callbacks, self._steps, self.static_updates, self._loss_terms = None, None, None, {}
        if stage == "fit":
            self._options, self.changes_of_this_start = record_of(self), []
            if self.cuda_graph:
                refuse_uncapturable(self)

    def _use_the_machine(self) -> None:
        """Take more threads for large updates on a CPU, and say what precision costs or would save there."""
        precision, device = str(self.trainer.precision), self.trainer.strategy.root_device
        warn_where_emulated(precision, device)
        if device.type != "cpu":
            return
        flops = functools.cache(lambda: flops_per_observation(self) * self.data.batch_size)
        if self.trainer.world_size == 1:
            use_more_for_large_updates(flops)
        hint = hint_where_faster(precision, device) if "bf16-mixed" in self.precisions else None
        if hint and flops() >= LARGE_BATCH_FLOPS:
            ranks.say(hint)

    def on_train_start(self) -> None:
        """Evaluate the untrained agent at frame 0, as the reference does; stop at once if already done."""
        for note in notes(self) if self.cuda_graph else ():
            ranks.say(note)
        for change in self.changes_of_this_start:
            ranks.say(f"Changed: {change['option']} from env frame {self.env_frames} on: {change['effect']}")
        self._last_log = (time.monotonic(), self.env_frames, self.num_updates)
        if self.data.starts_empty:
            self._collect_before_updates()
        if self.env_frames == 0:
            with evaluation_mode(self):  # as in Lightning's evaluations: the ranks play different numbers of episodes
                for episode in self.data.val_dataloader():
                    self.validation_step(episode, 0)
                self._log_evaluation()
        if self.eval_returns and self.eval_returns[-1][0] == self.env_frames:  # else it was stopped before, or in it
            self.stop_when_done()

    def _collect_before_updates(self) -> None:
        """Begin with a second seed phase, in which the policy acts: the replay of the checkpoint is gone."""
        self.wait_for_experience()
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
            self.eval_episodes.append(self.play_evaluation(episode))

    def play_evaluation(self, episode: int, task: str | None = None) -> Episode:
        """Play evaluation episode number ``episode`` without exploration, of ``task`` or the current one."""
        self.begin_evaluation_episode(episode)
        with precision_of(self._trainer):  # also where a hook asks, which computes in float32
            return self.data.evaluate(lambda observations: self.act(observations, explore=False), episode, task)

    def on_validation_epoch_end(self) -> None:
        """Log mean and standard deviation of the evaluation episodes' returns; after training, evaluate at length."""
        scalars = self._log_evaluation()
        if self.env_frames >= self.data.max_frames and self.trainer.state.fn == TrainerFn.FITTING:
            log_final_evaluation(self)
            self.stop_when_done()  # a run that was stopped in this evaluation has had no tick since
        # Through Lightning as well, for checkpoint file names, ``monitor`` and what ``Trainer.validate`` returns: that
        # takes logged metrics only, and a metric called ``step`` puts them on our x-axis.
        validating = self.trainer.state.fn == TrainerFn.VALIDATING
        frames = float(self.env_frames)
        self.log_dict({**scalars, "env_frames": frames, **({"step": frames} if validating else {})}, logger=validating)

    def _log_evaluation(self) -> dict[str, Tensor]:
        self.eval_episodes = all_episodes(self.eval_episodes)
        returns = torch.tensor([episode.episode_return for episode in self.eval_episodes], dtype=torch.float64)
        scalars = {"eval/return": returns.mean(), "eval/return_std": returns.std(correction=0)}
        self.played_by_task = {self.data.current_task: [episode.score for episode in self.eval_episodes]}
        self.dispatch("on_evaluation", self.eval_episodes)
        self.eval_returns.append((self.env_frames, float(returns.mean())))
        self.eval_episodes = []
        self.log_scalars(scalars)
        return scalars

    def best_evaluation(self) -> tuple[int, float] | None:
        """Return frame and return of the best evaluation after the seed phase, not of the untrained agent; or None."""
        learned = [(frame, mean) for frame, mean in self.eval_returns if frame > self.num_seed_frames]
        return max((one for one in learned if not math.isnan(one[1])), key=lambda one: one[1], default=None)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add clocks, credit and generators, as tensors and plain data."""
        checkpoint["rl"] = {
            **self.clock_state(),
            "rng": self.rng.state_dict(),
            "global_rng": global_rng_state(),
            "eval_returns": [list(pair) for pair in self.eval_returns],
            "event_counts": dict(self.event_counts),
            "metrics": {tag: value.detach().cpu() for tag, value in ranks.mean_over_ranks(self, self.metrics).items()},
            "callbacks": describe(callbacks_of(self.trainer)) if self._trainer is not None else [],
            "architecture": {name: list(p.shape) for name, p in self.named_parameters()},
        }
        if self._trainer is not None:
            checkpoint[RECORD] = {**(self._options or record_of(self)), "changes": self.option_changes}
            ranks.add_other_ranks(checkpoint, type(self.data).__qualname__)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what ``on_save_checkpoint`` added, refusing a checkpoint of another network by name."""
        if "rl" not in checkpoint:
            raise UserError("the checkpoint was not written by plasticity_rl: it holds no 'rl' entry")
        state, changes = checkpoint["rl"], list[Change]()
        if self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            if (key := type(self.data).__qualname__) in checkpoint:
                ranks.refuse_other_world_size(checkpoint, self.data.world_size)
                ranks.take_own_part(checkpoint, key, self.global_rank)
            self._options = self._options or record_of(self)
            changes = accept(self, self._options["options"], checkpoint)  # first: shapes of networks depend on them
        refuse_other_architecture(state["architecture"], {name: list(p.shape) for name, p in self.named_parameters()})
        replay_ratio = self.replay_ratio
        self.load_clock_state(state)
        if any(change.option == "model.replay_ratio" for change in changes):
            self.replay_ratio = replay_ratio
        self._note_changes(checkpoint.get(RECORD, {}), changes)
        self.eval_returns = [(frames, value) for frames, value in state["eval_returns"]]
        self.event_counts = dict(state.get("event_counts", {}))
        device = self.device if self._trainer is None else self.trainer.strategy.root_device  # it is not there yet
        self.metrics = TensorDict(state.get("metrics", {})).to(device)
        self.rng.load_state_dict(state["rng"])
        self._global_rng = state["global_rng"]

    def _note_changes(self, saved: dict[str, Any], changes: Iterable[Change]) -> None:
        self.weights_from = saved.get("options", {}).get("init_weights")
        if self._options:
            self._options["options"]["init_weights"] = self.weights_from

        def plainly(some: Iterable[Change]) -> list[dict[str, Any]]:
            return [{"at_env_frames": self.env_frames, "option": str(one), "effect": one.rule.why} for one in some]

        self.changes_of_this_start = plainly(changes)
        self.option_changes = [*saved.get("changes", []), *plainly(c for c in changes if not c.only_watches)]


def as_agent(module: pl.LightningModule) -> RLModule:
    """Return ``module`` as an agent of this framework.

    Raises:
        UserError: When it is another kind of LightningModule.
    """
    if not isinstance(module, RLModule):
        raise UserError(f"interventions and probes need an agent of plasticity_rl, but got {type(module).__name__}")
    return module
