"""Cycle through several tasks in one run, keeping weights, optimizer and replay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import lightning.pytorch as pl
import torch

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.callback import Intervention
from plasticity_rl.data.evaluation import Episode, all_episodes
from plasticity_rl.errors import UserError, at_least, one_of
from plasticity_rl.rng import derive_seed, global_rng_state, set_global_rng_state


class ContinualTasks(Intervention):
    """Go on to the next of ``tasks`` every ``every_n_frames`` env frames, in a cycle.

    The switch happens before the first env step after frame N, hence after the evaluation at frame N, which is the last
    one of the old task. An episode that is open then is cut: its last transition is complete and bootstrapped, as at a
    time limit; it has no ``train/return``. No frame stack and no n-step return reaches from one task into another.
    Every visit starts with fresh environments, seeded by seed and number of the visit. Weights, optimizer, target,
    replay, clocks and exploration schedule go on as if nothing had happened.

    Mutates: which task is collected and evaluated; of the replay, the last frames of cut episodes.
    Logs: ``train/<task>/return`` at the end of every training episode, ``eval/<task>/return`` at every evaluation; the
        same of the current task as a curve for each visit, counted from 0: ``train/<task>/visit_<visit>/return``,
        ``eval/<task>/visit_<visit>/return``;
        ``intervention/continual_tasks`` (1 at the frame of a switch) with a line of text, and
        ``intervention/continual_tasks/visit`` (number of the visit, from 0). ``train/return`` and ``eval/return`` are
        those of the current task.
    Reference: Abbas et al. 2023 (arXiv 2303.07507), section 3: a fixed list of games in a cycle, with no reset of
        weights or buffer.
    Differences from the original: tasks of DeepMind Control with equal actions instead of Atari games; the replay
        samples over all tasks it holds, as there. An episode that is open at a boundary is cut there, as at a time
        limit; the evaluation at a boundary is of the task that ends.

    Args:
        tasks: Task names in order; the first must be ``data.task``. A name may occur more than once.
        every_n_frames: Env frames of a visit; a multiple of ``data.action_repeat * data.num_envs`` (times the
            number of ranks).
        evaluate: ``current`` evaluates the current task, ``all`` every task at each evaluation (as many times longer).

    Raises:
        UserError: When ``tasks`` is empty or the period is not positive.
    """

    reads = frozenset()
    writes = frozenset({"experience"})
    family = "experience"
    example_arguments: ClassVar[Mapping[str, Any]] = {"tasks": ["tiny", "tiny_away"], "every_n_frames": 100}
    inert_arguments: ClassVar[Mapping[str, Any]] = {"tasks": ["tiny"], "every_n_frames": 10**12}

    def __init__(
        self, *, tasks: Sequence[str], every_n_frames: int, evaluate: Literal["current", "all"] = "current"
    ) -> None:
        self.tasks, self.every_n_frames, self.evaluate = list(tasks), every_n_frames, evaluate
        if not self.tasks:
            raise UserError("ContinualTasks: tasks=[] must name tasks")
        at_least("ContinualTasks.every_n_frames", every_n_frames, 1)
        one_of("ContinualTasks.evaluate", evaluate, ("current", "all"))
        self.visit = 0

    def claims(self, agent: RLModule) -> frozenset[str]:
        """Only one of them may choose the task."""
        return frozenset({"choose the task"})

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse tasks of other actions or images, and a first task that is not the run's, before training."""
        super().setup(trainer, pl_module, stage)
        data = as_agent(pl_module).data
        if self.tasks[0] != data.task:
            raise UserError(
                f"ContinualTasks.tasks={self.tasks} must begin with data.task={data.task}: "
                f"use --data.task {self.tasks[0]}"
            )
        if self.every_n_frames % data.frames_per_tick:
            raise UserError(
                f"ContinualTasks.every_n_frames={self.every_n_frames} must be a multiple of "
                f"data.action_repeat * data.num_envs{data.times_ranks} = {data.frames_per_tick}"
            )
        for task in self.tasks[1:]:
            env = data.eval_env(task)
            for what, mine, theirs in (
                ("action dimensions", data.action_dim, env.action_spec.shape[-1]),
                ("observations", data.obs_shape, tuple(env.observation_spec[data.observation].shape)),
            ):
                if mine != theirs:
                    raise UserError(
                        f"ContinualTasks: {task} has {theirs} {what}, but {data.task} has {mine}; one agent can only "
                        "learn tasks of equal actions, such as walker_stand, walker_walk and walker_run"
                    )

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Switch when the next env step belongs to another visit."""
        agent = as_agent(pl_module)
        visit = agent.env_frames // self.every_n_frames
        if visit == self.visit:
            return
        self.visit = visit
        data, task = agent.data, self.tasks[visit % len(self.tasks)]
        kept = global_rng_state()  # building an environment may draw; the agent restores a resumed run's state later
        seed = derive_seed(data.seed, f"continual_tasks/{visit}/rank{trainer.global_rank}") % (2**32 - data.num_envs)
        data.switch_task(task, seed=seed)
        set_global_rng_state(kept)
        agent.log_scalars({f"intervention/{self.name}/visit": visit})
        agent.log_event(self.name, f"{task} from frame {agent.env_frames} on, visit {visit}")

    def on_episode_end(self, agent: RLModule, episode_return: float, env_steps: int) -> None:
        """Log the return under the task's name."""
        task = agent.data.current_task
        tags = (f"train/{task}/return", f"train/{task}/visit_{self.visit}/return")
        agent.log_scalars(dict.fromkeys(tags, episode_return))

    def on_evaluation(self, agent: RLModule, episodes: Sequence[Episode]) -> None:
        """Log the returns under the tasks' names; play the others if asked to."""
        data = agent.data
        by_task = {data.current_task: list(episodes)}
        others = sorted(set(self.tasks) - {data.current_task}) if self.evaluate == "all" else []
        for task in others:
            policy = lambda pixels: agent.act(pixels, explore=False)  # noqa: E731
            mine = [episode for episode in data.val_dataloader() if episode < data.num_eval_episodes]
            by_task[task] = all_episodes([data.evaluate(policy, episode, task) for episode in mine])
        played = {task: [episode.score for episode in some] for task, some in by_task.items()}
        agent.played_by_task.update(played)
        means = {task: torch.tensor(some, dtype=torch.float64)[:, 0].mean() for task, some in played.items()}
        of_visit = {f"eval/{data.current_task}/visit_{self.visit}/return": means[data.current_task]}
        agent.log_scalars({**{f"eval/{task}/return": mean for task, mean in means.items()}, **of_visit})

    def state_dict(self) -> dict[str, Any]:
        """Return the number of the visit; the data module saves the task and its simulator."""
        return {"visit": self.visit}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.visit = state_dict["visit"]
