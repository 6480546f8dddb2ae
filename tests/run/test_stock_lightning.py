"""Everything that Lightning offers by name works in a run, or is refused in a line: callbacks, loggers, and so on."""

from __future__ import annotations

import gc
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from cli_runs import TINY, call
from helpers import TINY_TRAINER, fit_tiny
from lightning.pytorch import callbacks, loggers, profilers, strategies
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from plasticity_rl import UserError, make_trainer
from plasticity_rl.run.callback_checks import refuse_unsuitable

NEW = (
    "Lightning brings {}: try it in a tiny run, and note in this file whether it works; what does not is refused in "
    "a line, callbacks in run/callback_checks.py, the rest by what make_trainer raises"
)
CALLBACKS: dict[str, Callable[[Path], pl.Callback]] = {
    "Checkpoint": lambda _: callbacks.Checkpoint(),
    "EMAWeightAveraging": lambda _: callbacks.EMAWeightAveraging(),
    "EarlyStopping": lambda _: callbacks.EarlyStopping("eval/return", mode="max"),
    "LambdaCallback": lambda _: callbacks.LambdaCallback(on_train_start=lambda *_: None),
    "LearningRateMonitor": lambda _: callbacks.LearningRateMonitor(),
    "ModelCheckpoint": lambda _: callbacks.ModelCheckpoint(save_top_k=-1, filename="own_{epoch}"),
    "ModelSummary": lambda _: callbacks.ModelSummary(),
    "OnExceptionCheckpoint": lambda folder: callbacks.OnExceptionCheckpoint(folder),
    "RichModelSummary": lambda _: callbacks.RichModelSummary(),
    "ThroughputMonitor": lambda _: callbacks.ThroughputMonitor(batch_size_fn=lambda _: 1),
    "Timer": lambda _: callbacks.Timer(duration="00:01:00:00"),
    "WeightAveraging": lambda _: callbacks.WeightAveraging(),
}
"""Work; all of them at once in one run."""
BARS = ("ProgressBar", "RichProgressBar", "TQDMProgressBar")
"""Work, one at a time."""
REFUSED: dict[str, Callable[[], pl.Callback]] = {
    "BackboneFinetuning": callbacks.BackboneFinetuning,
    "BaseFinetuning": callbacks.BaseFinetuning,
    "BasePredictionWriter": callbacks.BasePredictionWriter,
    "BatchSizeFinder": callbacks.BatchSizeFinder,
    "Callback": callbacks.Callback,
    "DeviceStatsMonitor": lambda: callbacks.DeviceStatsMonitor(cpu_stats=True),  # without psutil
    "GradientAccumulationScheduler": lambda: callbacks.GradientAccumulationScheduler({0: 2}),
    "LearningRateFinder": callbacks.LearningRateFinder,
    "ModelPruning": lambda: callbacks.ModelPruning("l1_unstructured"),
    "SpikeDetection": callbacks.SpikeDetection,
    "StochasticWeightAveraging": lambda: callbacks.StochasticWeightAveraging(1e-2),
}
OTHERS = {
    loggers: {
        **dict.fromkeys(("CSVLogger", "TensorBoardLogger"), "works"),
        "WandbLogger": "works",  # tests/run/test_wandb.py
        **dict.fromkeys(("CometLogger", "LitLogger", "MLFlowLogger"), "not installed"),
        "Logger": "abstract",
    },
    profilers: {
        **dict.fromkeys(("AdvancedProfiler", "PassThroughProfiler", "PyTorchProfiler", "SimpleProfiler"), "works"),
        "XLAProfiler": "not installed",
        "Profiler": "abstract",
    },
    strategies: {
        "SingleDeviceStrategy": "works",
        **dict.fromkeys(("DDPStrategy", "DeepSpeedStrategy", "FSDPStrategy", "ModelParallelStrategy"), "refused"),
        **dict.fromkeys(("ParallelStrategy", "Strategy"), "abstract"),
    },
}


@pytest.mark.parametrize("module", [callbacks, *OTHERS], ids=lambda module: module.__name__.rpartition(".")[2])
def test_every_name_of_lightning_was_decided_on(module):
    known = OTHERS.get(module) or {*CALLBACKS, *BARS, *REFUSED}
    assert not (new := set(module.__all__) - set(known)), NEW.format(sorted(new))


def test_callbacks_that_work_do_so_in_one_run(tmp_path):
    given = [make(tmp_path) for make in CALLBACKS.values()]
    loggers_that_work = [loggers.CSVLogger(tmp_path / "csv"), loggers.TensorBoardLogger(tmp_path / "tb")]
    agent = fit_tiny(tmp_path / "run", callbacks=given, max_frames=104, trainer_options={"logger": loggers_that_work})
    assert agent.env_frames == 104
    assert (tmp_path / "run" / "checkpoints" / "own_epoch=0.ckpt").is_file()
    (csv,) = (tmp_path / "csv").rglob("metrics.csv")
    assert "eval/return" in csv.read_text()
    assert list((tmp_path / "tb").rglob("events*"))


@pytest.mark.parametrize("name", BARS)
def test_bars(name, tmp_path, capsys):
    bar = getattr(callbacks, name)()
    options: dict[str, Any] = {"enable_progress_bar": True}
    assert fit_tiny(tmp_path, callbacks=[bar], max_frames=44, trainer_options=options).env_frames == 44


class OwnPruning(callbacks.ModelPruning):
    """Of the user's: a subclass cannot either."""


@pytest.mark.parametrize("make", [*REFUSED.values(), lambda: OwnPruning("l1_unstructured")])
def test_callbacks_that_cannot_work_are_refused(make, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    callback = make()
    with pytest.raises(UserError, match=f"^{type(callback).__name__}"):
        refuse_unsuitable([callback])


@pytest.mark.parametrize(
    ("name", "value"), [("every_n_train_steps", 10), ("train_time_interval", timedelta(seconds=1))], ids=str
)
def test_checkpoints_by_other_clocks_are_refused(name, value, tmp_path):
    """Lightning counts three steps per update, and never asks for the time."""
    with pytest.raises(UserError, match=rf"^ModelCheckpoint\.{name}=.*eval_every_n_frames"):
        make_trainer(tmp_path, **TINY_TRAINER, callbacks=[callbacks.ModelCheckpoint(**{name: value})])


WORKING_PROFILERS = [name for name, verdict in OTHERS[profilers].items() if verdict == "works"]


@pytest.mark.parametrize("name", WORKING_PROFILERS)
def test_profilers(name, tmp_path, capsys):
    profiler = getattr(profilers, name)()
    assert fit_tiny(tmp_path, max_frames=44, trainer_options={"profiler": profiler}).env_frames == 44


UNAVAILABLE = [
    (kind, name)
    for kind, module in (("logger", loggers), ("profiler", profilers))
    for name, verdict in OTHERS[module].items()
    if verdict != "works"
]


@pytest.mark.parametrize(("kind", "name"), UNAVAILABLE)
def test_what_is_not_installed_is_refused_in_a_line(kind, name, tmp_path):
    run = f"--trainer.default_root_dir={tmp_path / 'run'}"
    result = call("fit", *TINY, "--max_frames=200", run, f"--trainer.{kind}=lightning.pytorch.{kind}s.{name}")
    gc.collect()  # here, what was only half built: in the middle of a later ast.parse, Python 3.11 stumbles over it
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    assert f"trainer.{kind}" in result.err or name in result.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "verdict"), OTHERS[strategies].items())
def test_strategies(name, verdict, tmp_path):
    if verdict == "works":
        make_trainer(tmp_path, **TINY_TRAINER, strategy=getattr(strategies, name)())
        return
    lines = (UserError, TypeError, ImportError, MisconfigurationException)  # abstract, not installed: Lightning's words
    with pytest.raises(lines) as caught:
        make_trainer(tmp_path, **TINY_TRAINER, strategy=getattr(strategies, name)())
    assert str(caught.value).strip()
