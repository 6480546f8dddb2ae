"""Start a fresh agent with the replay of another run."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

import lightning.pytorch as pl

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.callback import Intervention
from plasticity_rl.data.module import RLDataModule
from plasticity_rl.errors import UserError
from plasticity_rl.replay.donor import DonorReplay, donor_replay


class WarmStartReplay(Intervention):
    """Fill the replay of a new run with the transitions of another run, before its first env step.

    If the agent that collected them had lost its plasticity, a fresh agent learns from the same data: the experiment
    with the failed agent's buffer. Weights, optimizer and clocks are those of a new run. The seed phase stays: for
    ``model.num_seed_frames`` actions are random and there is no update; with 0 updates start at the first env step.
    Several ranks share the episodes among them; of a donor that had several, those of its rank 0 are copied.

    What is copied: all episodes of the other replay at its checkpoint, the open one cut where it is, without an episode
    whose beginning its ring had overwritten. A resumed run does not copy again.

    Mutates: the contents of the replay, before training. No weight, no random number.
    Logs: ``intervention/warm_start_replay`` (1 at frame 0) and a line of text.
    Reference: Nikishin et al. 2022 (arXiv 2205.07802), section 3.2: a fresh agent on the buffer of one that failed.
    Differences from the original: none known; the original is SAC on states.

    Args:
        path: Run folder, or a checkpoint in its ``checkpoints/``; null does nothing.
    """

    reads = frozenset()
    writes = frozenset({"experience"})
    cuda_graph = "stays"
    family = "experience"
    example_arguments: ClassVar[Mapping[str, Any]] = {"path": "runs/donor"}
    inert_arguments: ClassVar[Mapping[str, Any]] = {"path": None}

    def __init__(self, *, path: str | None) -> None:
        self.path = path
        self.fills_replay = path is not None
        self._filled = False

    def claims(self, agent: RLModule) -> frozenset[str]:
        """Only one other run may give its replay: the second would find the replay filled and do nothing."""
        return frozenset({"fill the replay of a new run"}) if self.path is not None else frozenset()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy the records into a new run; a resumed one has them already and needs the other run no more.

        A replay of another task or of other shapes is refused.
        """
        agent = as_agent(pl_module)
        replay = agent.data.replay
        self._filled = False
        if self.path is None or trainer.ckpt_path or replay.written.any():
            return
        try:
            donor = donor_replay(self.path)
        except UserError as error:
            raise UserError(f"WarmStartReplay.path={self.path}: {error}") from error
        refuse_other_data(self.path, donor, agent.data)
        for episode in itertools.islice(donor.episodes(), trainer.global_rank, None, trainer.world_size):
            lane = int(replay.written.argmin())
            if int(replay.written[lane]) + len(episode) > replay.lane_length:
                raise UserError(
                    f"WarmStartReplay: the replay of {self.path} does not fit: raise data.capacity "
                    f"(now {agent.data.capacity})"
                )
            replay.append_episode(lane, episode)
        self._filled = True
        agent.log_event(self.name, f"{replay.num_transitions} transitions of {self.path}")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse a replay without a window of the horizon that others have set by now."""
        replay = as_agent(pl_module).data.replay
        if self._filled and not trainer.strategy.reduce_boolean_decision(replay.has_window):
            for_each = f" for each of {trainer.world_size} ranks" * (trainer.world_size > 1)
            raise UserError(
                f"WarmStartReplay: the replay of {self.path} holds no transition that can be learned from{for_each}"
            )


def refuse_other_data(path: str, donor: DonorReplay, data: RLDataModule) -> None:
    """Raise UserError naming the first option in which a donor's experience differs from what this run collects."""
    frame_shape = (data.obs_shape[0] // data.stacked_frames, *data.obs_shape[1:])
    mine = {**data.environment.experience, "action_dim": data.action_dim, "frame shape": frame_shape}
    theirs = {
        "observation": "pixels",  # of runs that did not say it yet
        **donor.identity,
        "action_dim": donor.layout.action_dim,
        "frame shape": donor.layout.frame_shape,
    }
    for name, value in mine.items():
        if theirs.get(name) != value:
            raise UserError(
                f"WarmStartReplay: the run {path} has {name}={theirs.get(name)}, but this run has {value}: "
                "its transitions mean something else here"
            )
