"""Measure a checkpoint with the probes of training: rebuild the run, restore it, and let them look once.

Restoring is Lightning's own resume, so that weights, optimizer state, replay and random generators are those of the run
when the checkpoint was taken. Nothing is written into the run folder.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from tqdm import tqdm

from plasticity_rl.agents.base import RLModule
from plasticity_rl.agents.hooks import RLCallback
from plasticity_rl.callback import Intervention, Probe
from plasticity_rl.callback.feature_batches import LEAST, automatic_batch_size, feature_shape, too_few
from plasticity_rl.callback.module_probes import RankProbe
from plasticity_rl.checkpoint_files import AtomicCheckpointIO, CheckpointReader
from plasticity_rl.cli.rebuild import RestoredRun, restore_only
from plasticity_rl.data.module import RLDataModule
from plasticity_rl.distributed.ranks import saved_world_size
from plasticity_rl.errors import UserError, suggestion
from plasticity_rl.files.places import expanded, no_file
from plasticity_rl.replay.buffer import FrameReplay
from plasticity_rl.run.trainer import TRAINER_DEFAULTS

PACKAGE = "callbacks"
"""Where probes are found by name, as in YAML."""


@dataclass
class Measurement:
    """What the probes found in a checkpoint.

    Attributes:
        checkpoint: Its path.
        task: Task of the run.
        env_frames: Env frames at the checkpoint.
        num_updates: Gradient updates at the checkpoint.
        batch: Where the probe batch came from: ``replay`` or ``rollouts``.
        reason: Why it was not the replay.
        layers: Dotted names of all submodules by top-level module of the agent.
        scalars: Values by the tags of training.
        skipped: Probes that could not be measured, each with the reason.
    """

    checkpoint: str
    task: str = ""
    env_frames: int = 0
    num_updates: int = 0
    batch: str = "replay"
    reason: str = ""
    layers: dict[str, list[str]] = field(default_factory=dict)
    scalars: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def measure_checkpoint(
    path: str | Path,
    probes: Sequence[str] | None = None,
    *,
    modules: Sequence[str] | None = None,
    rollout_frames: int = 2000,
    trusts: bool = False,
) -> Measurement:
    """Measure a checkpoint of this framework.

    A probe that the run had is measured with the run's arguments and its state from the checkpoint, every other with
    its default arguments. The batch comes from the run's replay; where that is gone or has moved on too far, from new
    rollouts with the checkpoint's policy, exploring as in training.

    Args:
        path: A ``.ckpt`` file in the folder ``checkpoints/`` of its run, or one that was taken out of it.
        probes: Class names in ``callbacks``; None for all that can be measured.
        modules: Modules by dotted name to measure instead of those of the run or of the defaults; probes that do not
            measure by module are then left out, unless they are named. None for the probes' own.
        rollout_frames: Env frames to collect where there is no replay.
        trusts: Whether classes of other packages may be built that the files of the run name.

    Raises:
        UserError: When the file is no checkpoint, nothing says what its run was made of, or a probe that was named does
            not exist or cannot be measured.
    """
    path = expanded(Path(path), "probe")
    if not path.is_file():
        raise UserError(f"{path}: {no_file(path)}; give a checkpoint, RUN/checkpoints/last.ckpt")
    checkpoints = CheckpointReader()
    world_size, saved = saved_world_size(checkpoints.look(path)), checkpoints.look(path).get("callbacks", {})
    restored = restore_only(path, checkpoints, trusts=trusts)
    result = Measurement(str(path), restored.data.task)
    for name in modules or ():
        restored.agent.module(name)  # refuses one that does not exist
    chosen = choose_probes(probes, restored, saved, result.skipped, modules)
    chosen = [probe for probe in chosen if _accepts(probe, restored.agent, result, explicit=probes is not None)]
    session = _Session(chosen, result, rollout_frames, Path(restored.run_dir))
    interventions = [callback for callback in restored.callbacks if isinstance(callback, Intervention)]
    restored.data.world_size_of_checkpoint = world_size  # of which rank 0's replay is looked at
    session.run(restored.agent, restored.data, interventions, path, checkpoints)
    return result


def choose_probes(
    names: Sequence[str] | None,
    run: RestoredRun,
    saved: Mapping[str, Any],
    skipped: dict[str, str],
    modules: Sequence[str] | None = None,
) -> list[Probe]:
    """Return the probes to measure: those of the run, and the others with their defaults.

    Args:
        names: Class names, or None for all.
        run: Its agent and callbacks.
        saved: Callback states in the checkpoint, by key.
        skipped: Filled with the reasons for leaving one out.
        modules: Modules to measure, or None for the probes' own.

    Raises:
        UserError: When there is no probe of a name, or it cannot be measured.
    """
    package = importlib.import_module(PACKAGE)
    exported = {name: getattr(package, name) for name in package.__all__}
    known = {name: cls for name, cls in exported.items() if issubclass(cls, Probe)}
    own = [callback for callback in run.callbacks if isinstance(callback, Probe)]
    known |= {type(probe).__name__: type(probe) for probe in own}
    for name in names or ():
        if name not in known:
            raise UserError(f"--probes {name}: no such probe; there are {', '.join(known)}.{suggestion(name, known)}")
    chosen: list[Probe] = []
    for name in known if names is None else dict.fromkeys(names):
        probes = [probe for probe in own if type(probe).__name__ == name] or [known[name]()]
        if modules is not None and "modules" in probes[0].arguments():
            probes = [type(probe)(**{**probe.arguments(), "modules": list(modules)}) for probe in probes[:1]]
        elif modules is not None and names is None:
            skipped[name] = "does not measure by module"
            continue
        for probe in probes:
            probe.resolve(run.agent)
            reason = _needs_history(probe, saved)
            if reason and names is not None:
                raise UserError(f"--probes {name}: {reason}")
            if reason:
                skipped[name] = reason
            else:
                chosen.append(probe)
    return chosen


def _needs_history(probe: Probe, saved: Mapping[str, Any]) -> str:
    """Say why a probe that prepares something at the start of training cannot begin with a checkpoint."""
    prepares = type(probe).on_fit_start is not pl.Callback.on_fit_start
    return (
        "compares with weights that it keeps from the start of training on, and the run did not have it"
        if prepares and not saved.get(probe.state_key)
        else ""
    )


def _accepts(probe: Probe, agent: RLModule, result: Measurement, *, explicit: bool) -> bool:
    """Whether a probe fits the agent, its modules and losses; a probe that was named must."""
    try:
        probe.setup(None, agent, "fit")  # type: ignore[arg-type]  # probes look at the agent, of which no Trainer knows
    except UserError as error:
        if explicit:
            raise
        result.skipped[type(probe).__name__] = str(error)
        return False
    return True


class Measured(Exception):
    """Ends the Trainer after the measurement, before anything is trained."""


class _Session(RLCallback):
    """The one callback of a Trainer that restores a run: measures when training would start, then stops."""

    def __init__(self, probes: Sequence[Probe], result: Measurement, rollout_frames: int, run_dir: Path) -> None:
        self.probes, self.result = list(probes), result
        self.rollout_frames, self.run_dir = rollout_frames, run_dir

    def run(
        self,
        agent: RLModule,
        data: RLDataModule,
        interventions: Sequence[pl.Callback],
        path: Path,
        checkpoints: CheckpointReader,
    ) -> None:
        # Reads the run's files in place; they would be changed by a write alone.
        data.storage, data.draw_on_device = "memmap", False
        self._let_replay_be_missing(data)
        trainer = pl.Trainer(
            **TRAINER_DEFAULTS,
            default_root_dir=self.run_dir,
            callbacks=[*interventions, *self.probes, self],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            plugins=[AtomicCheckpointIO(checkpoints)],
        )
        with suppress(Measured):
            trainer.fit(agent, data, ckpt_path=str(path))

    def _let_replay_be_missing(self, data: RLDataModule) -> None:
        restore = data.load_state_dict

        def load_state_dict(state_dict: dict[str, Any]) -> None:
            try:
                restore(state_dict)
            except UserError as error:
                self.result.batch, self.result.reason = "rollouts", str(error)

        data.load_state_dict = load_state_dict  # type: ignore[method-assign]

    @property
    def state_key(self) -> str:
        """Not a key of any checkpoint."""
        return "offline session"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, RLModule)
        agent, result = pl_module, self.result
        result.env_frames, result.num_updates = agent.env_frames, agent.num_updates
        for name in agent.module_names:
            result.layers[name] = [path for path, _ in agent.module(name).named_modules() if path]
        if not agent.data.replay.has_window:
            result.batch = "rollouts"
            result.reason = result.reason or "the checkpoint is older than the first steps"
            collect(agent, self.rollout_frames)
            warn_of_few(agent, self.probes, self.rollout_frames)
        result.scalars = measure(agent, self.probes)
        raise Measured


def collect(agent: RLModule, env_frames: int) -> None:
    """Fill a replay in memory with new steps of the agent's own exploring policy; its clocks stand still."""
    data = agent.data
    env_steps = -(-env_frames // data.action_repeat)
    least = data.num_envs * (data.stacked_frames + data.n_step)
    data.replay = FrameReplay(
        obs_shape=data.obs_shape,
        action_dim=data.action_dim,
        capacity=max(2 * env_steps, least),
        frame_stack=data.stacked_frames,
        n_step=data.n_step,
        discount=data.discount,
        batch_size=data.batch_size,
        num_lanes=data.num_envs,
        seed=data.seed,
        observation=data.observation,
        num_actions=data.num_actions,
        reward_clip=data.reward_clip,
    )
    for _ in range(-(-env_steps // data.num_envs)):
        data.replay.write(data.collector.step())
    if not data.replay.has_window:
        raise UserError(f"--rollout_frames {env_frames} are too few for a batch: give at least {least * 10}")


def warn_of_few(agent: RLModule, probes: Sequence[Probe], env_frames: int) -> None:
    """Warn where rollouts of ``env_frames`` hold fewer transitions than ranks are taken of in training."""
    ranks = [probe for probe in probes if isinstance(probe, RankProbe) and probe.batch_size is None]
    shapes = [feature_shape(agent, name) for probe in ranks for name in probe.modules]
    asked = max((automatic_batch_size(shape, agent.data.capacity) for shape in shapes), default=0)
    held = agent.data.replay.num_windows
    if asked > max(LEAST, held):
        thousands = math.ceil(env_frames * asked / held / 1000)
        agent.warn_once("few transitions for ranks", f"{too_few(held, asked)}; give --rollout_frames {thousands}000")


def measure(agent: RLModule, probes: Sequence[Probe]) -> dict[str, float]:
    """Let probes look at an agent that is attached to a Trainer and a replay; return their scalars by tag.

    Most are measured on the weights as they are. Those that watch an update (FAU on the training batch, churn) get one,
    on a probe batch of the training's size; gradients are those of this update too. Then the weights are put back.
    """
    for probe in probes:
        probe.resolve(agent)
    watching = [probe for probe in probes if probe.watches_update]
    with _weights_kept(agent):
        for probe in watching:
            probe.begin(agent)
        batch = agent.probe_batch(agent.data.batch_size)
        update: Any = agent.update
        metrics = update(batch)
        found = _end_of_update(agent, watching, batch, metrics)
    found |= _end_of_update(agent, [probe for probe in probes if not probe.watches_update], batch, metrics)
    return {tag: _number(value) for tag, value in found.items()}


def _number(value: Any) -> float:
    return value.item() if isinstance(value, Tensor) else float(value)


class _Collector(RLCallback):
    """Measures probes at the end of an update, and shares their passes as in training."""

    def __init__(self, probes: Sequence[Probe]) -> None:
        self.probes, self.found = probes, dict[str, Any]()

    def on_update_end(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> None:
        for probe in tqdm(self.probes, desc="measuring", leave=False, disable=None):  # quiet where nobody looks
            self.found |= probe.measured(agent, batch, metrics)


def _end_of_update(
    agent: RLModule, probes: Sequence[Probe], batch: TensorDictBase, metrics: TensorDictBase
) -> dict[str, Any]:
    """Let probes measure as at the end of an update, of which no other callback hears."""
    collector = _Collector(probes)
    others, agent._callbacks = agent._callbacks, [collector]
    try:
        agent.end_update(batch, metrics)
    finally:
        agent._callbacks = others
    return collector.found


@contextmanager
def _weights_kept(module: nn.Module) -> Iterator[None]:
    """Put all parameters and buffers back afterwards, in place."""
    tensors = [*module.parameters(), *module.buffers()]
    before = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
