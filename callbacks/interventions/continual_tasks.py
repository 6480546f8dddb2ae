"""Cycle through several tasks in one run, keeping weights, optimizer and replay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import lightning.pytorch as pl
import numpy as np
import torch

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.callback import Intervention
from plasticity_rl.data.evaluation import Episode, all_episodes
from plasticity_rl.data.module import RLDataModule
from plasticity_rl.errors import UserError, at_least, one_of
from plasticity_rl.rng import derive_seed, global_rng_state, set_global_rng_state


class ContinualTasks(Intervention):
    """Go on to the next of ``tasks`` every ``every_n_frames`` env frames, in a cycle.

    The switch happens before the first env step after frame N, hence after the evaluation at frame N, which is the last
    one of the old task. An episode that is open then is cut: its last transition is complete and bootstrapped, as at a
    time limit; it has no ``train/return``. No frame stack and no n-step return reaches from one task into another.
    Every visit starts with fresh environments, seeded by seed and number of the visit. Weights, optimizer, target and
    clocks go on as if nothing had happened, and so do replay and exploration unless ``empty_replay`` and
    ``restart_exploration`` say otherwise: with both only the network and its optimizer carry over.

    Games of one run need equal observations and action sets: ``--data.full_actions true``, and for ``minatar:``
    ``--data.channels 10`` as well, which fills up with empty channels.

    An agent that is reset at every switch: ``callbacks.Reset`` with ``at_task_switches: true`` beside it.

    Mutates: which task is collected and evaluated; of the replay, the last frames of cut episodes.
    Logs: ``train/<task>/return`` at the end of every training episode, ``eval/<task>/return`` at every evaluation; the
        same of the current task as a curve for each visit, counted from 0: ``train/<task>/visit_<visit>/return``,
        ``eval/<task>/visit_<visit>/return``; at the last frame of every visit ``train/<task>/visit_return``, the mean
        return of its last ``num_last_episodes`` training episodes, and ``train/<task>/visit_episodes``, how many ended
        in it; ``intervention/continual_tasks`` (1 at the frame of a switch) with a line of text, and
        ``intervention/continual_tasks/visit`` (number of the visit, from 0). ``train/return`` and ``eval/return`` are
        those of the current task.
    Reference: Abbas et al. 2023 (arXiv 2303.07507), section 3: a fixed list of Atari games in a cycle, with no reset of
        weights or buffer, 20 million frames a visit.
    Differences from the original: any tasks of equal actions and observations. The action set of their games they do
        not state. ``empty_replay`` and ``restart_exploration`` are additions; without them the replay samples over all
        tasks it holds, as there. An episode that is open at a boundary is cut there, as at a time
        limit; the evaluation at a boundary is of the task that ends.

    Args:
        tasks: Task names in order; the first must be ``data.task``. A name may occur more than once.
        every_n_frames: Env frames of a visit; a multiple of ``data.action_repeat * data.num_envs`` (times the
            number of ranks).
        evaluate: ``current`` evaluates the current task, ``all`` every task at each evaluation (as many times longer).
        empty_replay: Forget what was collected at every switch, and update nothing until ``model.num_seed_frames`` more
            frames are.
        restart_exploration: Explore at every switch as at the start of the run: a seed phase of uniform actions, then
            the schedule of exploration from its beginning.
        num_last_episodes: Number of training episodes, the last of a visit, whose mean return is that of the visit.

    Raises:
        UserError: When ``tasks`` is empty, a number is not positive, the tasks do not fit one agent, or a visit is not
            longer than the seed phase that it begins with.
    """

    reads = frozenset()
    writes = frozenset({"experience"})
    cuda_graph = "stays"
    family = "experience"
    example_arguments: ClassVar[Mapping[str, Any]] = {"tasks": ["tiny", "tiny_away"], "every_n_frames": 100}
    inert_arguments: ClassVar[Mapping[str, Any]] = {"tasks": ["tiny"], "every_n_frames": 10**12}

    def __init__(
        self,
        *,
        tasks: Sequence[str],
        every_n_frames: int,
        evaluate: Literal["current", "all"] = "current",
        empty_replay: bool = False,
        restart_exploration: bool = False,
        num_last_episodes: int = 30,
    ) -> None:
        self.tasks, self.every_n_frames, self.evaluate = list(tasks), every_n_frames, evaluate
        if not self.tasks:
            raise UserError("ContinualTasks: tasks=[] must name tasks")
        at_least("ContinualTasks.every_n_frames", every_n_frames, 1)
        one_of("ContinualTasks.evaluate", evaluate, ("current", "all"))
        at_least("ContinualTasks.num_last_episodes", num_last_episodes, 1)
        self.empty_replay, self.restart_exploration = empty_replay, restart_exploration
        self.num_last_episodes = num_last_episodes
        self.visit = 0
        self.returns: list[float] = []
        """Of the last training episodes of the visit, at most ``num_last_episodes``."""
        self.num_episodes = 0
        """How many ended in the visit."""

    def claims(self, agent: RLModule) -> frozenset[str]:
        """Only one of them may choose the task."""
        return frozenset({"choose the task"})

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse tasks of other actions or images, and a first task that is not the run's, before training."""
        super().setup(trainer, pl_module, stage)
        agent = as_agent(pl_module)
        data = agent.data
        if self.tasks[0] != data.task:
            raise UserError(
                f"ContinualTasks.tasks={self.tasks} must begin with data.task={data.task}: "
                f"use --data.task {self.tasks[0]}"
            )
        if self.every_n_frames % data.frames_per_tick:
            raise UserError(
                f"ContinualTasks.every_n_frames={self.every_n_frames} must be a multiple of "
                f"data.action_repeat * data.num_envs{data.times_ranks}{data.times_steps} = {data.frames_per_tick}"
            )
        if (self.empty_replay or self.restart_exploration) and self.every_n_frames <= agent.num_seed_frames:
            raise UserError(
                f"ContinualTasks.every_n_frames={self.every_n_frames} must be more than the "
                f"model.num_seed_frames={agent.num_seed_frames} that every visit begins with, or nothing is learned"
            )
        seed_transitions = agent.num_seed_frames // data.action_repeat
        if self.empty_replay and data.batch_size > seed_transitions:  # whatever fills the replay of the first visit
            raise UserError(
                f"ContinualTasks.empty_replay=True: data.batch_size={data.batch_size} is larger than the "
                f"{seed_transitions} transitions of the seed phase that every visit begins with: use "
                f"model.num_seed_frames >= {data.batch_size * data.action_repeat} or a smaller batch"
            )
        for task in self.tasks[1:]:
            self._refuse_other_shapes(data, task)

    def _refuse_other_shapes(self, data: RLDataModule, task: str) -> None:
        """Raise UserError when one agent cannot learn ``task`` and the run's."""
        env = data.eval_env(task)
        advice = "one agent can only learn tasks of equal actions, such as walker_stand, walker_walk and walker_run"
        if data.num_actions:
            options = [name for name in ("full_actions", "channels") if name in data.environment.names()]
            advice = "one agent can only learn games of equal actions and observations" + (
                ": use --data.full_actions true" + " --data.channels 10" * ("channels" in options) if options else ""
            )
        theirs = env.action_spec
        discrete = 0 if theirs.dtype.is_floating_point else int(theirs.space.n)
        for what, mine, other in (
            ("discrete actions", data.num_actions, discrete),
            ("action dimensions", data.action_dim, theirs.shape[-1]),
            ("observations", data.obs_shape, tuple(env.observation_spec[data.observation].shape)),
        ):
            if mine != other:
                raise UserError(f"ContinualTasks: {task} has {other} {what}, but {data.task} has {mine}; {advice}")
        if getattr(data.eval_env(data.task), "action_codes", None) != getattr(env, "action_codes", None):
            raise UserError(
                f"ContinualTasks: the {discrete} actions of {task} mean others than those of {data.task}; {advice}"
            )

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Switch when the next env step belongs to another visit."""
        agent = as_agent(pl_module)
        visit = agent.env_frames // self.every_n_frames
        if visit == self.visit:
            return
        self.visit, self.returns, self.num_episodes = visit, [], 0
        data, task = agent.data, self.tasks[visit % len(self.tasks)]
        kept = global_rng_state()  # building an environment may draw; the agent restores a resumed run's state later
        seed = derive_seed(data.seed, f"continual_tasks/{visit}/rank{trainer.global_rank}") % (2**32 - data.num_envs)
        agent.switch_task(task, seed=seed, empty_replay=self.empty_replay, restart_exploration=self.restart_exploration)
        set_global_rng_state(kept)
        agent.log_scalars({f"intervention/{self.name}/visit": visit})
        agent.log_event(self.name, f"{task} from frame {agent.env_frames} on, visit {visit}")

    def on_episode_end(self, agent: RLModule, episode_return: float, env_steps: int) -> None:
        """Log the return under the task's name."""
        self.returns = [*self.returns, episode_return][-self.num_last_episodes :]
        self.num_episodes += 1
        task = agent.data.current_task
        tags = (f"train/{task}/return", f"train/{task}/visit_{self.visit}/return")
        agent.log_scalars(dict.fromkeys(tags, episode_return))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Sum up a visit at its last frame, which is before the evaluation at that frame."""
        agent = as_agent(pl_module)
        if agent.env_frames % self.every_n_frames == 0 and self.returns:
            mean = float(np.mean(self.returns))
            tag = f"train/{agent.data.current_task}"
            agent.log_scalars({f"{tag}/visit_return": mean, f"{tag}/visit_episodes": self.num_episodes})

    def on_evaluation(self, agent: RLModule, episodes: Sequence[Episode]) -> None:
        """Log the returns under the tasks' names; play the others if asked to."""
        data = agent.data
        by_task = {data.current_task: list(episodes)}
        others = sorted(set(self.tasks) - {data.current_task}) if self.evaluate == "all" else []
        for task in others:
            mine = [episode for episode in data.val_dataloader() if episode < data.num_eval_episodes]
            by_task[task] = all_episodes([agent.play_evaluation(episode, task) for episode in mine])
        played = {task: [episode.score for episode in some] for task, some in by_task.items()}
        agent.played_by_task.update(played)
        means = {task: torch.tensor(some, dtype=torch.float64)[:, 0].mean() for task, some in played.items()}
        of_visit = {f"eval/{data.current_task}/visit_{self.visit}/return": means[data.current_task]}
        agent.log_scalars({**{f"eval/{task}/return": mean for task, mean in means.items()}, **of_visit})

    def state_dict(self) -> dict[str, Any]:
        """Return where the visit stands; the data module saves the task and its simulator."""
        return {"visit": self.visit, "returns": list(self.returns), "num_episodes": self.num_episodes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.visit = state_dict["visit"]
        self.returns = list(state_dict.get("returns", []))
        self.num_episodes = state_dict.get("num_episodes", 0)
