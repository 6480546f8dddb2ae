"""Replay buffer that stores every frame once and rebuilds frame stacks and n-step returns when sampling.

Collected steps become records in the layout of dm_env: record t holds frame t, the action taken there, the reward and
discount of the transition that leaves it, and its position in the episode. One more record per episode holds the last
frame. A batch of n-step transitions is then a set of windows of consecutive records: 21 KB per step at 84x84 instead of
127 KB for stored observation pairs, and the frame stack and n can change between runs. State vectors are stored the
same way, as frames of one dimension.

The parts are TorchRL's own extension points:

* storage: :class:`~plasticity_rl.replay.storage.FrameStorage`;
* writer: :class:`~plasticity_rl.replay.writer.LaneWriter`, one ring per environment (``RoundRobinWriter`` has a single
  cursor);
* sampler: :class:`~plasticity_rl.replay.sampler.WindowSampler` (``SliceSampler`` cannot draw windows clamped at the
  reset frame, and ``Sequence`` units mask incomplete windows instead of redrawing them), or
  :class:`~plasticity_rl.replay.prioritized.PrioritizedWindows`, or :class:`~plasticity_rl.replay.rings.RingSampler`;
* transform: :class:`~plasticity_rl.replay.folding.FoldNStep` (``MultiStepTransform`` freezes n and the discount into
  the data when writing).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import ReplayBuffer

from plasticity_rl.errors import UserError, within
from plasticity_rl.machine.capacity import check_fits
from plasticity_rl.replay.ages import AgeWeights
from plasticity_rl.replay.copies import CopiesToGPU
from plasticity_rl.replay.files import RecordFiles
from plasticity_rl.replay.folding import FoldNStep
from plasticity_rl.replay.layout import RecordLayout, Storage, refuse_counts, refuse_sizes, refuse_words, replay_bytes
from plasticity_rl.replay.prioritized import Priorities, PrioritizedWindows
from plasticity_rl.replay.recorded import RecordedBatches
from plasticity_rl.replay.rings import RingSampler
from plasticity_rl.replay.sampler import NoDumps, WindowSampler
from plasticity_rl.replay.storage import FrameStorage
from plasticity_rl.replay.writer import LaneWriter
from plasticity_rl.rng import derive_seed

__all__ = ["FoldNStep", "FrameReplay", "LaneWriter", "WindowSampler", "check_fits", "replay_bytes"]


class FrameReplay(NoDumps, ReplayBuffer):
    """Replay of pixels or states with frame stacks and n-step returns built when sampling.

    ``sample()`` returns a TensorDict [batch_size] with ``pixels`` uint8 or ``state`` float32 (obs_shape), ``action``
    float32 (action_dim), or int64 of one number where actions are discrete, ``reward`` and ``discount`` float32 [1]
    (see :class:`FoldNStep`) and, under ``next``, the observation n steps later, uniformly over all complete windows of
    all lanes, the open episodes included.

    **The observations of a batch of the configured size stay valid until the second next** ``sample()``: two buffers
    take turns. Clone what must live longer. Batches of another size, and those of :meth:`peek`, are fresh tensors.

    To checkpoint, call :meth:`flush` and store :meth:`state_dict` (a few KB; the data stays in ``folder``). With
    ``slack`` at least the number of records per lane written between two checkpoints (terminal records included),
    the last checkpoint can always be resumed exactly, also after the process was killed. After a power failure the
    same holds for the last checkpoint; checks on older ones may miss what the disk never received.

    Args:
        obs_shape: Observation shape (channels x frame_stack, height, width), or (n x frame_stack,) of a state.
        action_dim: Number of action dimensions.
        capacity: Records that can be sampled, over all lanes: one per transition plus one per episode.
        frame_stack: Frames per observation.
        n_step: Transitions per sampled window. May differ when resuming.
        discount: Discount per transition, in [0, 1]. May differ when resuming.
        batch_size: Windows per ``sample()``. May differ when resuming.
        num_lanes: Number of environments; each has its own ring.
        storage: ``"ram"`` keeps records in memory and copies new ones to ``folder`` on :meth:`flush`; ``"memmap"``
            works in ``folder`` directly; ``"device"`` is ``"ram"`` with the data on ``device``, where batches are put
            together. The files are the same, so a run can be resumed with another setting.
        folder: Where the records persist; never deleted, and untouched until the first write (memmap) or flush (ram).
            None: memory only, no resume.
        slack: Extra records per lane, see above.
        seed: Seed of the sampling generator.
        observation: ``pixels`` (uint8) or ``state`` (float32): the key of the observation in steps and batches.
        num_actions: Number of discrete actions, each given by its index (``action_dim`` is 1); 0: continuous ones.
        reward_clip: See :class:`FoldNStep`. May differ when resuming.
        priorities: How batches are drawn by priority, with what :class:`PrioritizedWindows` adds to them; None:
            uniformly. A replay that was uniform can be resumed with priorities and the other way round.
        device: Of storage ``device``.
        draw_on_device: Whether ``sample()`` draws windows where the records lie, memory or a device (``rings.py``); not
            with ``memmap`` or priorities.

    Raises:
        UserError: If an argument is out of range.
    """

    def __init__(
        self,
        *,
        obs_shape: tuple[int, ...],
        action_dim: int,
        capacity: int,
        frame_stack: int = 3,
        n_step: int = 3,
        discount: float = 0.99,
        batch_size: int = 256,
        num_lanes: int = 1,
        storage: Storage = "ram",
        folder: str | os.PathLike[str] | None = None,
        slack: int = 0,
        seed: int = 0,
        observation: Literal["pixels", "state"] = "pixels",
        num_actions: int = 0,
        reward_clip: float | None = None,
        priorities: Priorities | None = None,
        device: torch.device | None = None,
        draw_on_device: bool = False,
    ) -> None:
        counts = {"action_dim": action_dim, "frame_stack": frame_stack, "n_step": n_step, "batch_size": batch_size}
        refuse_counts(counts | {"num_lanes": num_lanes}, {"slack": slack, "num_actions": num_actions})
        within("discount", discount, "[0, 1]")
        refuse_words(observation, storage, folder)
        assert not draw_on_device or (priorities is None and storage != "memmap"), "see the argument"
        refuse_sizes(obs_shape, observation, frame_stack, n_step, num_lanes, capacity)
        frame_shape = (obs_shape[0] // frame_stack, *obs_shape[1:])
        lane_length = -(-capacity // num_lanes)
        layout = RecordLayout(frame_shape, action_dim, num_lanes, lane_length, slack, observation, num_actions)
        self._obs_shape = tuple(obs_shape)
        self._lanes = torch.arange(num_lanes)
        self._records = FrameStorage(
            layout,
            None if folder is None else RecordFiles(folder, layout),
            in_ram=storage != "memmap",
            buffered_batch=batch_size,
            kept_on=device if storage == "device" else None,
        )
        self._fold = FoldNStep(discount, reward_clip)
        self._windows = WindowSampler(frame_stack, n_step)
        self._recorded: RecordedBatches | None = None
        if priorities is not None:
            self._windows = PrioritizedWindows(frame_stack, n_step, self._records, priorities)
        elif draw_on_device:
            self._windows = rings = RingSampler(frame_stack, n_step, self._records, derive_seed(seed, "device"))
            self._recorded = RecordedBatches(rings, self._records, self._fold)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batch")
        self._ahead: Future[TensorDictBase] | None = None
        self._copies = CopiesToGPU()
        super().__init__(
            storage=self._records,
            sampler=self._windows,
            writer=LaneWriter(num_lanes),
            transform=self._fold,
            collate_fn=torch.nn.Identity(),
            batch_size=batch_size,
            generator=torch.Generator().manual_seed(seed),
        )

    def set_horizon(self, n_step: int, discount: float) -> None:
        """Make batches of another n and discount from now on; linear in the records where priorities decide."""
        assert self._ahead is None, "the batch that was begun would have the horizon before"
        if n_step != self._windows.n_step:
            self._windows.set_n_step(n_step)
        self._fold.discount = discount

    @property
    def written(self) -> Tensor:
        """int64 [num_lanes], records written per lane since the run began, overwritten ones included."""
        return self._records.written.clone()

    @property
    def lane_length(self) -> int:
        """Records of one environment that can be sampled."""
        return self._records.layout.lane_length

    @property
    def num_transitions(self) -> int:
        """Transitions in the replay (live records that are not the last frame of an episode)."""
        return int(self._records.transitions.sum())

    @property
    def has_window(self) -> bool:
        """Whether ``sample()`` would succeed."""
        return self._windows.can_sample(self._records, 1)

    @property
    def num_windows(self) -> int:
        """Number of different windows that ``sample()`` draws from. Time linear in the live records."""
        return len(self._windows.complete_anchors(self._records)[0])

    @property
    def size_bytes(self) -> int:
        """Bytes of the full replay, in memory or on disk."""
        return self._records.layout.size_bytes()

    def write(self, step: TensorDictBase) -> None:
        """Append one collected step of every environment.

        The first step of a lane, and the one after a done, starts an episode: its observation must be the reset
        observation.

        Args:
            step: Batch of ``num_lanes`` elements (any shape) with the observation (obs_shape) and the next one
                under their key, e.g. ``pixels`` and ``("next", "pixels")``, ``action`` and, of shape [1],
                ``("next", "reward")``, ``("next", "discount")`` (0 after a true termination, else 1) and
                ``("next", "done")``.

        Raises:
            ValueError: If dtype, shape or number of lanes of the observation differ from the constructor's.
        """
        key = self._records.layout.observation
        following = step.get("next")
        done = following.get("done").reshape(-1).cpu()
        columns = {
            key: self._newest_frame(step.get(key)),
            "action": step.get("action").reshape(len(self._lanes), self._records.layout.action_dim),
            "reward": following.get("reward").reshape(-1),
            "discount": following.get("discount").reshape(-1),
        }
        self._append(columns, self._lanes, terminal=False)
        if done.any():
            self._append_last(self._newest_frame(following.get(key)), self._lanes[done])

    def cut_episodes(self, observations: Tensor) -> None:
        """End the open episodes here: a time limit as far as the data goes. The next step of a lane starts an episode.

        Args:
            observations: [num_lanes, *obs_shape] in any batch shape, what the last steps led to. Those of lanes whose
                episode has just ended are not used.
        """
        open_lanes = self._lanes[self.writer.position > 0]
        if len(open_lanes):
            self._append_last(self._newest_frame(observations), open_lanes)

    def append_episode(self, lane: int, records: TensorDictBase) -> None:
        """Append a whole recorded episode to a lane that has no open one.

        Args:
            lane: Index of the lane.
            records: [T] records of another replay in order, last frame included, as ``DonorReplay.episodes`` gives.
        """
        assert not int(self.writer.position[lane]), "the lane is in the middle of an episode"
        self._records.append(lane, records)
        self._windows.follow()

    def _append_last(self, observations: Tensor, lanes: Tensor) -> None:
        """Append the frames ``observations[lanes]`` that end episodes: nothing is done there."""
        layout = self._records.layout
        zeros = {"action": torch.zeros(len(lanes), layout.action_dim, dtype=layout.action_dtype)}
        zeros |= {name: torch.zeros(len(lanes)) for name in ("reward", "discount")}
        self._append({layout.observation: observations[lanes], **zeros}, lanes, terminal=True)

    def sample_ahead(self) -> None:
        """Begin in a thread what the next ``sample()`` returns; nothing must be written before it.

        The numbers are those of a ``sample()`` without it. With ``draw_on_device`` it does nothing: what a GPU has been
        given goes on beside Python anyway.
        """
        assert self._ahead is None, "a batch was begun already"
        if self._recorded is not None:
            return
        self._let_copies_end()
        self._ahead = self._thread.submit(self._next_batch)

    def sample(self, batch_size: int | None = None, return_info: bool = False) -> Any:
        """Return a batch, see above; the one that :meth:`sample_ahead` began, if it did."""
        if self._ahead is None:
            self._let_copies_end()
            usual = batch_size is None and not return_info
            return self._next_batch() if usual else super().sample(batch_size, return_info)
        ahead, self._ahead = self._ahead, None
        return ahead.result()

    def _next_batch(self) -> TensorDictBase:
        """Do what ``ReplayBuffer.sample()`` does, without its locks and options."""
        if self._recorded is not None:
            return self._recorded()
        windows, _ = self._windows.sample(self._records, self._records.buffered_batch)
        return self.transform(self._records.get(windows))

    def weigh_by_age(self, weights: AgeWeights | None) -> None:
        """Let ``sample()`` draw by the age of the first transition, where nothing else decides; None: uniformly."""
        assert weights is None or type(self._windows) is WindowSampler, "batches are drawn in another way"
        self._windows.by_age = weights

    def update_priorities(self, batch: TensorDictBase, losses: Tensor) -> None:
        """Set the priorities of the transitions of a batch to their losses, where they are still in the replay.

        Args:
            batch: From ``sample()``; a batch of another origin (:meth:`peek`, :meth:`sample_first`) changes nothing.
            losses: [batch_size] on any device, at least 0.
        """
        if isinstance(self._windows, PrioritizedWindows) and "index" in batch:
            assert self._ahead is None, "the batch that was begun would have been drawn with the priorities before"
            index, number = batch["index"].cpu(), batch["number"].cpu()
            self._windows.update(index, number, losses.detach().reshape(len(index)).cpu())

    def peek(self, batch_size: int, generator: torch.Generator) -> TensorDictBase:
        """Return a batch like ``sample()``, drawn with ``generator``: the run's own sequence of batches is unchanged.

        Args:
            batch_size: Number of windows, drawn with replacement into fresh tensors.
            generator: Source of all random numbers.

        Raises:
            RuntimeError: If there is no complete window yet.
        """
        windows = self._windows.draw(self._records, batch_size, generator)
        return self.transform(self._records.read(windows, reuse=False))

    def peek_distinct(self, most: int, generator: torch.Generator, part: int) -> Iterator[TensorDictBase]:
        """Yield up to ``most`` different windows as of :meth:`peek`, ``part`` at a time; all there are, if fewer."""
        for windows in self._windows.draw_distinct(self._records, most, generator, part):
            yield self.transform(self._records.read(windows, reuse=False))

    def first_records(self, num_transitions: int) -> Tensor | None:
        """Return where the first transitions end, for :meth:`sample_first`; None while some are to come.

        Args:
            num_transitions: The first so many over all lanes, which take turns.

        Returns:
            int64 [num_lanes], numbers of records; the frame after a lane's last transition lies before its number.

        Raises:
            UserError: If some of them are no longer there, or hold no complete n-step window.
        """
        ends = self._records.ends_of_first(num_transitions)
        if ends is not None and not len(self._windows.complete_anchors(self._records, ends)[0]):
            raise UserError(f"the first {num_transitions} transitions hold no {self._windows.n_step}-step window")
        return ends

    def sample_first(self, ends: Tensor, generator: torch.Generator) -> TensorDictBase:
        """Return a batch like ``sample()`` of the first transitions only; its pixels stay valid as long.

        Args:
            ends: What :meth:`first_records` returned.
            generator: Source of all random numbers.
        """
        batch_size = self._records.buffered_batch
        windows = self._windows.draw(self._records, batch_size, generator, ends)
        if reuse := self._ahead is None:
            self._let_copies_end()
        return self.transform(self._records.read(windows, reuse=reuse))

    def _let_copies_end(self) -> None:
        # A replay on the GPU needs not wait: what reads a buffer there is given before what writes it.
        if self._records.kept_on is None:
            self._copies.let_end()

    def flush(self) -> int:
        """Bring all records to the disk: those written since the last flush, never the whole replay.

        Returns:
            The number of records that were new.

        Raises:
            UserError: If the folder holds the replay of another run.
        """
        return self._records.flush()

    def state_dict(self) -> dict[str, Any]:
        """Return cursors, positions and generator (tensors and plain data, a few KB), after flushing if needed.

        Priorities change in place, which the files cannot; they are in here, with 4 bytes a record.
        """
        return {
            "storage": self._records.state_dict(),
            "writer": self.writer.state_dict(),
            "sampler": self._windows.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any], *, empty: bool = False) -> None:
        """Go back to a checkpoint: everything written and sampled from here on is as if it had never stopped.

        Args:
            state_dict: What :meth:`state_dict` returned, in this process or another.
            empty: Go on with no records, in the middle of the open episodes.

        Raises:
            UserError: If there is no folder, or it does not hold (or no longer holds) the data of the checkpoint.
        """
        if not empty:
            self._records.load_state_dict(state_dict["storage"])
        self.writer.load_state_dict(state_dict["writer"])
        self._windows.load_state_dict(state_dict["sampler"])

    def _newest_frame(self, stack: Tensor) -> Tensor:
        expected, layout = (len(self._lanes), *self._obs_shape), self._records.layout
        fits = stack.shape[-len(self._obs_shape) :] == self._obs_shape and stack.numel() == math.prod(expected)
        if stack.dtype != layout.dtype or not fits:
            raise ValueError(
                f"write() needs {str(layout.dtype).removeprefix('torch.')} {layout.observation} of {expected[0]} lanes "
                f"with shape {self._obs_shape}, got {stack.dtype} {tuple(stack.shape)}."
            )
        return stack.reshape(expected)[:, -layout.frame_shape[0] :]

    def _append(self, columns: dict[str, Tensor], lanes: Tensor, *, terminal: bool) -> None:
        flags = {"lane": lanes, "terminal": torch.full(lanes.shape, terminal)}
        self._windows.extend(self.writer.extend({**columns, **flags}))  # ``ReplayBuffer.extend`` wants a TensorDict
