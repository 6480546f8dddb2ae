"""Train long on the very first transitions, as in the primacy-bias experiments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from torch import Tensor
from tqdm import tqdm

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.agents.hooks import callbacks_of, fill_replay
from plasticity_rl.callback import Intervention, Mutation
from plasticity_rl.distributed import ranks
from plasticity_rl.errors import UserError, at_least, at_most
from plasticity_rl.nn.precision import precision_of
from plasticity_rl.replay.storage import FrameStorage
from plasticity_rl.run.checkpoints import stop_inside_of_a_hook


class HeavyPriming(Intervention):
    """Do ``num_updates`` gradient updates on the first ``num_transitions`` transitions, then go on as usual.

    They happen at the start of the first update, with the agent's own ``update``, on batches drawn with replacement
    from n-step windows that lie within those transitions. They count in ``num_updates`` and earn or cost no update
    credit; probes and other interventions see every one of them, all at the same env frame. Batches and all random
    numbers inside come from generators of their own, so that the run afterwards draws the same numbers as without.

    Every environment must have its share of the transitions by then, from a donor (``WarmStartReplay``, which deals out
    whole episodes, so that one may have more than another) and the seed phase together. Where one will not have it, or
    its first are no longer in the replay, the run is refused at its start: no other update comes before the priming.

    No checkpoint is written meanwhile: a run killed while priming goes on from the checkpoint before and primes again
    from the start. Ctrl-C, SIGTERM and ``max_time`` are obeyed between two updates.

    Mutates: everything that an update mutates, and ``num_updates``.
    Logs: ``intervention/heavy_priming`` (1 at its frame) and a line of text.
    Reference: Nikishin et al. 2022 (arXiv 2205.07802), section 3.1: 100 000 updates on 100 transitions; Ma et al. 2024
        (arXiv 2310.07418), App. B.2: on 2000 transitions, with and without augmentation while priming.
    Differences from the original: the seed phase may be longer than ``num_transitions`` (a batch must fit into it); the
        rest of it is not primed on.

    Args:
        num_transitions: How many of the first transitions, a donor's before those of this run; of several environments
            (or ranks), the same share of each.
        num_updates: Gradient updates; 0 does nothing.
        augment: Whether images are augmented while priming; null leaves it to ``agent.augment``.

    Raises:
        UserError: When a number is out of range.
    """

    reads = frozenset()
    writes = frozenset({"updates"})
    cuda_graph = "stays"
    family = "experience"
    example_arguments: ClassVar[Mapping[str, Any]] = {"num_transitions": 16, "num_updates": 5}
    inert_arguments: ClassVar[Mapping[str, Any]] = {"num_updates": 0}

    def __init__(self, *, num_transitions: int = 2000, num_updates: int = 100_000, augment: bool | None = None) -> None:
        at_least("HeavyPriming.num_transitions", num_transitions, 1)
        at_least("HeavyPriming.num_updates", num_updates, 0)
        at_most("HeavyPriming.num_updates", num_updates, 100_000_000, "no run gets past it; published: 100000")
        self.num_transitions, self.num_updates, self.augment = num_transitions, num_updates, augment
        self.done = num_updates == 0
        self._priming = False

    @property
    def order(self) -> tuple[int, ...]:
        """Before all others: what they do at the start of the update that waits for it is done after the priming."""
        return (-1,)

    def mutates(self, agent: RLModule) -> Mutation:
        """What an update mutates."""
        trained = frozenset(name for name, p in agent.named_parameters() if p.requires_grad)
        parameters = frozenset(name for name, _ in agent.named_parameters())  # targets move too
        return Mutation(parameters=parameters, optimizer_slots=trained, attributes=frozenset({"num_updates"}))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse numbers that the seed phase or the replay cannot hold, before anything is trained."""
        super().setup(trainer, pl_module, stage)
        agent = as_agent(pl_module)
        if stage != "fit" or self.done:
            return
        data = agent.data
        if self.augment and agent.observation_key != "pixels":
            raise UserError(
                f"HeavyPriming.augment=True: this run observes the {agent.observation_key}, and only images are "
                "augmented; use null or false"
            )
        seed_transitions = agent.num_seed_frames // data.action_repeat
        if self.num_transitions > seed_transitions and not fill_replay(callbacks_of(trainer)):
            raise UserError(
                f"HeavyPriming.num_transitions={self.num_transitions} are more than the {seed_transitions} transitions "
                f"of the seed phase: use model.num_seed_frames >= {self.num_transitions * data.action_repeat}"
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse transitions that the first update will not find, or that hold no window of it.

        Its windows may be longer than ``data.n_step``. A donor's transitions are there: that is done in
        ``on_fit_start``.
        """
        agent = as_agent(pl_module)
        data = agent.data
        n_step, _ = data.horizon
        if not self.done and self.num_transitions < (least := n_step * data.num_envs_of_all_ranks):
            at_first = "data.n_step" if n_step == data.n_step else f"the n-step of the first updates, {n_step},"
            raise UserError(
                f"HeavyPriming.num_transitions={self.num_transitions} must be at least "
                f"{at_first} * data.num_envs{data.times_ranks} = {least}"
            )
        if not self.done and (agent.env_frames == 0 or data.starts_empty):  # then there is another seed phase
            steps = -(-agent.num_seed_frames // data.frames_per_step)
            self._refuse_missing(agent, steps)
            self._refuse_overwritten(agent, steps + 1)

    def _refuse_missing(self, agent: RLModule, steps: int) -> None:
        """Raise UserError, on all ranks, when an environment will not have its share after so many env steps."""
        records, frames = _records(agent), agent.data.frames_per_step
        shares = records.shares(self._share_of_rank(agent))
        missing, share = max(ranks.gathered(_largest(shares - records.transitions - steps, shares)))
        if missing > 0:
            enough = frames * (-(-agent.num_seed_frames // frames) + missing)
            raise UserError(
                f"HeavyPriming.num_transitions={self.num_transitions}: at the first update an environment has "
                f"{share - missing} of its {share}, from donor and seed phase together: use fewer, or "
                f"model.num_seed_frames >= {enough}"
            )

    def _refuse_overwritten(self, agent: RLModule, steps: int) -> None:
        """Raise UserError, on all ranks, when so many env steps overwrite the first of an environment.

        Last frames of episodes take room too, which is not known here: ``first_records`` refuses what they overwrite.
        """
        records = _records(agent)
        lanes, shares = torch.arange(records.layout.num_lanes), records.shares(self._share_of_rank(agent))
        written, lane, share = max(ranks.gathered(_largest(records.written + steps, lanes, shares)))
        if written > records.layout.lane_length:
            raise UserError(
                f"HeavyPriming.num_transitions={self.num_transitions}: at the first update the first {share} "
                f"transitions of environment {lane} are no longer in the replay: raise --data.capacity "
                f"(now {agent.data.capacity})"
            )

    def on_update_start(self, agent: RLModule) -> None:
        """Prime once."""
        if self.done or self._priming:  # the updates of the priming dispatch this hook again
            return
        ends = agent.data.replay.first_records(self._share_of_rank(agent))
        self._refuse_missing(agent, steps=0)  # known at the start, but for a run that an older version began
        assert ends is not None
        self._priming = True
        try:
            with agent.rng.other_family(f"intervention/{self.state_key}"):
                self._prime(agent, ends)
        finally:
            self._priming = False
        self.done = True
        augmented = {None: "", True: ", augmented", False: ", not augmented"}[self.augment]
        text = f"{self.num_updates} updates on the first {self.num_transitions} transitions{augmented}"
        agent.log_event(self.name, f"{text} at frame {agent.env_frames}")

    def _share_of_rank(self, agent: RLModule) -> int:
        return -(-self.num_transitions // agent.data.world_size)

    def _prime(self, agent: RLModule, ends: Tensor) -> None:
        replay, trainer = agent.data.replay, agent.trainer
        hidden = trainer.progress_bar_callback is None or not trainer.is_global_zero
        for _ in tqdm(range(self.num_updates), desc="priming", unit="update", leave=False, disable=hidden):
            stop_inside_of_a_hook(trainer)  # the run itself looks between env steps only
            agent.dispatch("on_update_start")
            batch = replay.sample_first(ends, agent.rng.get_own("priming_batches")).to(agent.device)
            agent.dispatch("on_batch", batch)
            metrics = self._update(agent, batch)
            agent.num_updates += 1
            agent.end_update(batch, metrics)

    def _update(self, agent: RLModule, batch: Any) -> Any:
        with precision_of(agent.trainer):  # hooks compute in float32
            if self.augment is None:
                return agent.update(batch)
            chosen, agent.augment = agent.augment, self.augment  # for the update alone: another may switch it meanwhile
            try:
                return agent.update(batch)
            finally:
                agent.augment = chosen

    def state_dict(self) -> dict[str, Any]:
        """Return whether the priming is over."""
        return {"done": self.done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.done = state_dict["done"]


def _records(agent: RLModule) -> FrameStorage:
    records = agent.data.replay.storage
    assert isinstance(records, FrameStorage)
    return records


def _largest(first: Tensor, *others: Tensor) -> tuple[int, ...]:
    """Return the largest of ``first`` [lanes], and what the others have at its lane."""
    lane = int(first.argmax())
    return tuple(int(one[lane]) for one in (first, *others))
