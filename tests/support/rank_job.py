"""Runs on two ranks: ``python rank_job.py FOLDER PART [NAME ...]``; the parts are at the end.

Each rank is a process of its own, and writes what it found into ``FOLDER/rank<r>.json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from helpers import TINY_DISCRETE, fit_tiny, tiny_dqn, tiny_sac
from run_state import callback_states, differences, run_state
from tensordict import TensorDict

import callbacks
from callbacks import CURL, AdaptiveReplayRatio, ChurnReduction, FractionActiveUnits, L2Init, PlasticityInjection, Reset
from plasticity_rl import RLModule
from plasticity_rl.callback import RLCallback
from plasticity_rl.distributed.strategy import average_gradients

TWO_RANKS: dict[str, Any] = {"devices": 2, "strategy": "ddp"}
QUIET: dict[str, Any] = {"augment": False, "stddev_schedule": 0.0}
BATCH, UPDATES = 8, 6


class FixedBatches(RLCallback):
    """Feeds the agent batches that do not depend on the run: each rank its share of the same ones."""

    def on_fit_start(self, trainer, pl_module) -> None:
        generator = torch.Generator().manual_seed(0)
        data, share = pl_module.data, BATCH // trainer.world_size
        mine = slice(trainer.global_rank * share, (trainer.global_rank + 1) * share)

        def rows(number: int, source: torch.Generator) -> TensorDict:
            pixels = torch.randint(0, 256, (2, number, *data.obs_shape), dtype=torch.uint8, generator=source)
            batch = TensorDict({"pixels": pixels[0], "next": {"pixels": pixels[1]}}, batch_size=number)
            if data.num_actions:
                batch["action"] = torch.randint(data.num_actions, (number, 1), generator=source)
            else:
                batch["action"] = torch.rand(number, data.action_dim, generator=source) * 2 - 1
            batch["reward"] = torch.rand(number, 1, generator=source)
            batch["discount"] = torch.full((number, 1), 0.97)
            return batch

        def peek(number: int, _: torch.Generator) -> TensorDict:
            """What is shared out like a batch is a rank's share; what is measured on a batch of its own, all of it."""
            wanted = rows(max(number, BATCH), torch.Generator().manual_seed(1 + pl_module.num_updates))
            return wanted[mine] if number == share else wanted[:number]

        data.replay.sample = lambda: rows(BATCH, generator)[mine]
        data.replay.sample_first = lambda ends, _: rows(BATCH, generator)[mine]
        data.replay.peek = peek


class Events(RLCallback):
    """Remembers at which update an intervention acted, and the weights at every update."""

    def __init__(self) -> None:
        self.ratios: list[tuple[int, float]] = []

    def on_update_end(self, agent, batch, metrics) -> None:
        if not self.ratios or self.ratios[-1][1] != agent.replay_ratio:
            self.ratios.append((agent.num_updates, agent.replay_ratio))


def equal_batches(folder: Path, *given: RLCallback, **trainer_options: Any) -> RLModule:
    """Train for a few updates on fixed batches of 8, with everything that draws numbers switched off.

    Always two environments: one on each rank, or both on the only one.
    """
    return fit_tiny(
        folder,
        callbacks=[FixedBatches(), *given],
        max_frames=40 + 4 * UPDATES,
        data_options={"eval_every_n_frames": 32, "num_envs": 2 // trainer_options.get("devices", 1)},
        agent_options=QUIET,
        trainer_options=trainer_options,
    )


def clipped_batches(folder: Path, **trainer_options: Any) -> RLModule:
    """The same with an agent that clips its gradients, at every update here."""
    return fit_tiny(
        folder,
        callbacks=[FixedBatches()],
        make_agent=tiny_dqn,
        max_frames=40 + 4 * UPDATES,
        data_options={
            **TINY_DISCRETE,
            "eval_every_n_frames": 32,
            "num_envs": 2 // trainer_options.get("devices", 1),
        },
        agent_options={"max_grad_norm": 0.01},
        trainer_options=trainer_options,
    )


def penalty() -> L2Init:
    return L2Init(modules=["critic"])


def example(name: str, donor: Path) -> RLCallback:
    """Return a callback with the arguments with which it acts within a few updates."""
    cls = getattr(callbacks, name)
    return cls(**({"path": str(donor)} if name == "WarmStartReplay" else cls.example_arguments))


def several() -> list[RLCallback]:
    return [
        AdaptiveReplayRatio(high=1.0, every_n_episodes=2, threshold=1.0),
        ChurnReduction(),
        CURL(coefficient=0.5, random_shift_pad=2),
        FractionActiveUnits(every_n_updates=2),
        PlasticityInjection(at_frames=[120]),
        Reset(modules=["actor"], at_frames=[100, 140]),
    ]


def short_run(folder: Path, max_frames: int, *, resume: bool = False, **options: Any) -> dict[str, Any]:
    """A run with several callbacks, evaluated at every 100 frames; what it consists of in the end."""
    watched, events = several(), Events()
    agent = fit_tiny(
        folder,
        callbacks=[*watched, events],
        max_frames=max_frames,
        ckpt_path="last" if resume else None,
        data_options={"num_eval_episodes": 3, "capacity": 80},
        trainer_options=options,
    )
    state = {**run_state(agent), "callbacks": callback_states(watched)}
    return {"state": state, "facts": facts(agent), "ratios": events.ratios}


def facts(agent: RLModule) -> dict[str, Any]:
    return {
        "frames": agent.env_frames,
        "env_steps": agent.env_steps,
        "updates": agent.num_updates,
        "written": agent.data.replay.written.tolist(),
        "batch": agent.data.replay.sample().batch_size[0],
        "returns": agent.eval_returns,
    }


def averaged_gradients(rank: int) -> list[list[float] | None]:
    """Three parameters: both ranks have a gradient, only rank 0 has one, none has."""
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    parameters[0].grad = torch.tensor([1.0, 2.0]) + 2 * rank
    if rank == 0:
        parameters[1].grad = torch.tensor([4.0, -6.0])
    average_gradients(parameters)
    return [None if p.grad is None else p.grad.tolist() for p in parameters]


class FinalEvaluation(RLCallback):
    """Keeps which evaluation episodes this rank played at the last frame, and what was logged of the last of them."""

    def setup(self, trainer, pl_module, stage) -> None:
        self.episodes: list[int] = []
        self.logged: list[dict[str, Any]] = []
        play, log = pl_module.play_evaluation, pl_module.log_scalars

        def played(episode: int) -> Any:
            self.episodes += [episode] if pl_module.env_frames == pl_module.data.max_frames else []
            return play(episode)

        def kept(scalars: Any) -> None:
            final = {tag: float(value) for tag, value in scalars.items() if tag.startswith("final/")}
            self.logged += [{"frame": pl_module.env_frames, **final}] if final else []
            log(scalars)

        pl_module.play_evaluation, pl_module.log_scalars = played, kept


FINAL: dict[str, Any] = {**TINY_DISCRETE, "final_eval_episodes": 5, "num_eval_episodes": 1}
HALF_RANDOM: dict[str, Any] = {"eval_epsilon": 0.5, "seed": 1}


def final_evaluation(folder: Path) -> dict[str, Any]:
    """Five episodes after training, of an agent that draws in evaluation."""
    seen = FinalEvaluation()
    options = {"make_agent": tiny_dqn, "data_options": FINAL, "agent_options": HALF_RANDOM}
    fit_tiny(folder, callbacks=[seen], max_frames=100, trainer_options=TWO_RANKS, **options)
    return {"episodes": seen.episodes, "logged": seen.logged}


class Observed(RLCallback):
    """Keeps the states that this rank acted on."""

    def __init__(self) -> None:
        self.rows: list[list[float]] = []

    def on_env_step(self, agent, step) -> None:
        self.rows += step["state"].double().tolist()


def statistics(folder: Path) -> dict[str, Any]:
    """What the observations of both ranks are normalised by, and what each rank has observed."""
    seen, run = Observed(), {"make_agent": tiny_sac, "data_options": {"observation": "state"}}
    given = [callbacks.SimBaBlocks(hidden_dim=4), seen]
    agent = fit_tiny(folder, callbacks=given, max_frames=120, trainer_options=TWO_RANKS, **run)
    return {
        "rows": seen.rows,
        "statistics": {name: buffer.tolist() for name, buffer in agent.named_buffers() if "observations" in name},
        "weights": run_state(agent)["weights"],
    }


def main_part(folder: Path) -> dict[str, Any]:
    agent = equal_batches(folder / "equal", penalty(), **TWO_RANKS)
    clipped = clipped_batches(folder / "clipped", **TWO_RANKS)
    if agent.global_rank == 0:
        weights = {"weights": agent.state_dict(), "clipped": clipped.state_dict()}
        torch.save({**weights, "updates": agent.num_updates}, folder / "equal.pt")
    straight = short_run(folder / "straight", 200, **TWO_RANKS)
    short_run(folder / "stopped", 100, **TWO_RANKS)
    resumed = short_run(folder / "stopped", 200, resume=True, **TWO_RANKS)
    averaged = averaged_gradients(agent.global_rank)
    found = {"final": final_evaluation(folder / "final"), "observed": statistics(folder / "observed")}
    return {"rank": agent.global_rank, "averaged": averaged, "straight": straight, "resumed": resumed, **found}


def callbacks_part(folder: Path, *names: str) -> dict[str, Any]:
    """Every exported callback (or those named) in a run of its own; digests of weights, buffers and moments."""
    fit_tiny(folder / "donor", max_frames=100, seed=9, trainer_options=TWO_RANKS)
    found: dict[str, Any] = {}
    for name in names or sorted(callbacks.__all__):
        agent = fit_tiny(folder / name, callbacks=[example(name, folder / "donor")], trainer_options=TWO_RANKS)
        state = run_state(agent)
        found[name] = {key: state[key] for key in ("weights", "buffers", "optimizers")}
        found["rank"] = agent.global_rank
    return found


def halves_part(folder: Path, *names: str) -> dict[str, Any]:
    """The named callbacks, each in a run on halves of fixed batches; rank 0 saves the weights of all of them."""
    fit_tiny(folder / "donor", max_frames=100, seed=9, trainer_options=TWO_RANKS)
    weights: dict[str, Any] = {}
    for name in names:
        agent = equal_batches(folder / name, example(name, folder / "donor"), **TWO_RANKS)
        weights[name] = agent.state_dict()
    if agent.global_rank == 0:
        torch.save(weights, folder / "halves.pt")
    return {"rank": agent.global_rank}


def resumes_part(folder: Path, *names: str) -> dict[str, Any]:
    """What differs, by callback, between a run that was stopped at frame 60 and resumed, and one that was not."""
    fit_tiny(folder / "donor", max_frames=100, seed=9, trainer_options=TWO_RANKS)

    def run(name: str, run_folder: str, max_frames: int, ckpt_path: str | None = None) -> Any:
        callback = example(name, folder / "donor")
        agent = fit_tiny(
            folder / name / run_folder,
            callbacks=[callback],
            max_frames=max_frames,
            ckpt_path=ckpt_path,
            data_options={"eval_every_n_frames": 60, "num_eval_episodes": 2},
            trainer_options=TWO_RANKS,
        )
        return agent, [run_state(agent), callback_states([callback])]

    found: dict[str, Any] = {}
    for name in names or sorted(callbacks.__all__):
        agent, straight = run(name, "straight", 120)
        run(name, "stopped", 60)
        found[name] = differences(straight, run(name, "stopped", 120, "last")[1])
        found["rank"] = agent.global_rank
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_folder, part = Path(sys.argv[1]), sys.argv[2]
    parts = {"main": main_part, "callbacks": callbacks_part, "halves": halves_part, "resumes": resumes_part}
    result = parts[part](run_folder, *sys.argv[3:])
    (run_folder / f"rank{result['rank']}.json").write_text(json.dumps(result))
