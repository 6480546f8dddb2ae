"""What TensorBoard shows beside curves: the layout of its charts, the hyperparameters, the zeros between events."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard.summary import hparams

from plasticity_rl import scalars
from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.agents.hooks import RLCallback, callbacks_of, headlines
from plasticity_rl.callback import ActsAtEvents
from plasticity_rl.callback.charts import layout, summary
from plasticity_rl.run.description import first_columns, hyperparameters
from plasticity_rl.run.logger import note_going_on

OF_EVERY_RUN = ("hparam/best_return", "hparam/last_return")
"""Metrics beside the hyperparameters; what probes sum modules up by comes to these (``RLCallback.headline``)."""


class RunMonitor(RLCallback):
    """Part of every run; other loggers than TensorBoard's get hyperparameters and zeros too.

    Hyperparameters are written at the start, their metrics after every evaluation, at the end and on an error: a run
    that was killed keeps those of its last evaluation. TensorBoard takes the columns of its table from the first run
    that it finds, and shows those first that tell runs apart (``first_columns``).

    Mutates: nothing.
    Logs: ``hparam/best_return``, ``hparam/last_return`` (evaluations, the best of those after the seed phase) and, of
        probes with a headline, its last value by module: ``hparam/fau_<module>``;
        ``intervention/<name>`` = 0 where a scheduled intervention, or one that has acted before, does not act.
    """

    cuda_graph = "stays"

    def __init__(self) -> None:
        self._written_at = -1
        self._summed_up: dict[str, str] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the layout and the hyperparameters; of a resumed run again, its events lie in a file of their own."""
        agent, callbacks = as_agent(pl_module), callbacks_of(trainer)
        self._written_at = agent.env_frames if agent.eval_returns else -1
        tags = [tag.format(name) for tag in headlines(callbacks).values() for name in agent.module_names]
        self._summed_up = {f"hparam/{tag.replace('/', '_')}": tag for tag in tags}
        if not trainer.is_global_zero:
            return
        chosen = hyperparameters(agent, callbacks)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                if trainer.ckpt_path is not None or agent.env_frames:
                    note_going_on(logger.experiment, agent.env_frames)
                logger.experiment.add_custom_scalars(summary(layout(callbacks)))
                experiment, start, _ = hparams(chosen, dict.fromkeys([*OF_EVERY_RUN, *self._summed_up], 0.0))
                show_first(experiment, first_columns(callbacks))
                writer = logger.experiment._get_file_writer()
                writer.add_summary(experiment, agent.env_frames)
                writer.add_summary(start, agent.env_frames)
            else:
                logger.log_hyperparams(chosen)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Every ``trainer.log_every_n_steps`` env steps, or once a tick, write 0 for events that do not happen now."""
        agent = as_agent(pl_module)
        if not agent.every_in_tick(trainer.log_every_n_steps):  # type: ignore[attr-defined]
            return
        scheduled = [c.name for c in callbacks_of(trainer) if isinstance(c, ActsAtEvents)]
        names = dict.fromkeys([*scheduled, *agent.last_events])
        quiet = [name for name in names if agent.last_events.get(name) != agent.env_frames]
        scalars.log_scalars(trainer.loggers, {f"intervention/{name}": 0.0 for name in quiet}, agent.env_frames)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the metrics, and bring everything logged so far to the disk: a checkpoint follows."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._write_metrics(trainer.loggers, as_agent(pl_module))
            for logger in trainer.loggers:
                logger.save()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the last metrics, and that the run has come to its end."""
        self._write_metrics(trainer.loggers, as_agent(pl_module))
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                *_, end = hparams({}, {})
                logger.experiment._get_file_writer().add_summary(end, as_agent(pl_module).env_frames)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Write the metrics of a run that failed or was interrupted while it trained."""
        if trainer.state.fn == TrainerFn.FITTING:
            with contextlib.suppress(Exception):  # what ended the run may be what fails here, and must be seen
                self._write_metrics(trainer.loggers, as_agent(pl_module))

    def _write_metrics(self, loggers: list[Logger], agent: RLModule) -> None:
        if agent.env_frames == self._written_at or not agent.eval_returns:
            return
        self._written_at = agent.env_frames
        best = agent.best_evaluation()
        values = {
            "hparam/best_return": best[1] if best is not None else None,
            "hparam/last_return": agent.eval_returns[-1][1],
            **{metric: agent.latest.get(tag) for metric, tag in self._summed_up.items()},
        }
        scalars.log_scalars(loggers, {tag: v for tag, v in values.items() if v is not None}, agent.env_frames)


def show_first(experiment: Summary, names: Sequence[str]) -> None:
    """Mark hyperparameters as those that differ between runs: TensorBoard sorts them first, and shows the first few."""
    metadata = experiment.value[0].metadata.plugin_data
    data = HParamsPluginData.FromString(metadata.content)
    for info in data.experiment.hparam_infos:
        info.differs = info.name in names
    metadata.content = data.SerializeToString()
