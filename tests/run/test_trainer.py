"""The Trainer is assembled in one place: the command line and a program get the same one, and the same refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import yaml
from cli_runs import TINY, call
from helpers import fit_tiny
from lightning.pytorch.callbacks import BatchSizeFinder, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy

from callbacks import ReDo, Reset, SRank
from plasticity_rl import UserError, make_trainer
from plasticity_rl.cli.rebuild import build_only
from plasticity_rl.errors import spelled
from plasticity_rl.run.logger import RunLogger

OPTIONS: dict[str, Any] = {
    "max_steps": 100,
    "min_steps": 3,
    "max_epochs": 3,
    "min_epochs": 3,
    "limit_train_batches": 10,
    "limit_val_batches": 0,
    "overfit_batches": 1,
    "val_check_interval": 7,
    "check_val_every_n_epoch": 3,
    "num_sanity_val_steps": 2,
    "reload_dataloaders_every_n_epochs": 1,
    "gradient_clip_val": 1.0,
    "gradient_clip_algorithm": "norm",
    "limit_test_batches": 2,
    "barebones": True,
    "accumulate_grad_batches": 4,
    "log_every_n_steps": -1,
    "num_nodes": 2,
    "devices": 0,
    "strategy": "ddpp",
    "accelerator": "abacus",
    "profiler": "magic",
}
"""Options of the Trainer, each with a value that cannot be."""
PLAIN = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}


def refused_by_the_command_line(*options: str | Path) -> str:
    result = call("fit", *TINY, "--max_frames=200", *options)
    assert result.code == 2, result.out + result.err
    (line,) = result.err.strip().splitlines()
    return line.removeprefix("error: ")


def refused_by_python(run_dir: str | Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        make_trainer(run_dir, **{**PLAIN, **options})
    return str(caught.value)


@pytest.mark.parametrize(("name", "value"), OPTIONS.items(), ids=OPTIONS)
def test_the_same_option_is_refused_in_the_same_words(name, value, tmp_path):
    line = refused_by_the_command_line(f"--trainer.default_root_dir={tmp_path / 'run'}", f"--trainer.{name}={value}")
    assert refused_by_python(tmp_path / "run", **{name: value}) == spelled(line)
    assert name in line
    assert not (tmp_path / "run").exists()


def test_a_notebook_is_told_that_several_devices_need_a_script(tmp_path, monkeypatch):
    """Lightning's advice is a strategy for notebooks, which is refused here."""
    monkeypatch.setattr("lightning.pytorch.trainer.connectors.accelerator_connector._IS_INTERACTIVE", True)
    line = refused_by_python(tmp_path / "run", devices=2)
    assert line.startswith("devices=2: ")
    assert "devices=1" in line
    assert "script" in line


CALLBACKS: dict[str, tuple[pl.Callback, ...]] = {
    "no module": (Reset(modules=[], every_n_frames=50),),
    "a module twice": (SRank(modules=["critic.Q1", "critic.Q1"]),),
    "a frame twice": (Reset(at_frames=[50, 50]),),
    "the same twice": (ReDo(), ReDo()),
    "more than 64 bits": (Reset(every_n_frames=10**30),),
    "of Lightning": (BatchSizeFinder(),),
    "by what is not logged": (ModelCheckpoint(monitor="eval/retrun"),),
}
GIVEN = {"BatchSizeFinder": {}, "ModelCheckpoint": {"monitor": "eval/retrun"}}


@pytest.mark.parametrize("given", CALLBACKS.values(), ids=CALLBACKS)
def test_the_same_callback_is_refused_in_the_same_words(given, tmp_path):
    entries = []
    for callback in given:
        name = type(callback).__name__
        package = "lightning.pytorch.callbacks" if name in GIVEN else "callbacks"
        arguments = GIVEN[name] if name in GIVEN else dict(callback.arguments())
        entries.append({"class_path": f"{package}.{name}", "init_args": arguments})
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks+": entries}}))
    run = f"--trainer.default_root_dir={tmp_path / 'run'}"
    line = refused_by_the_command_line(run, "--config", tmp_path / "c.yaml")
    assert refused_by_python(tmp_path / "run", callbacks=given) == spelled(line)
    assert type(given[0]).__name__ in line


def test_a_run_folder_without_a_name_is_refused_in_the_same_words():
    line = refused_by_the_command_line("--trainer.default_root_dir=")
    assert refused_by_python("") == refused_by_python("  ") == spelled(line)


def test_a_strategy_that_lets_the_ranks_drift_is_refused_in_the_same_words(tmp_path):
    entry = {"class_path": "lightning.pytorch.strategies.DDPStrategy"}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"trainer": {"strategy": entry, "devices": 2}}))
    run = f"--trainer.default_root_dir={tmp_path / 'run'}"
    line = refused_by_the_command_line(run, "--config", tmp_path / "c.yaml")
    assert refused_by_python(tmp_path / "run", strategy=DDPStrategy(), devices=2) == spelled(line)


def test_an_option_that_the_trainer_does_not_have_is_refused(tmp_path):
    assert "unexpected keyword argument 'max_frame'" in refused_by_python(tmp_path, max_frame=100)


def test_a_program_is_told_what_the_command_line_refuses_about_the_length_of_a_run(tmp_path, capsys):
    late = ["--trainer.callbacks+=callbacks.Reset", "--trainer.callbacks.at_frames=[500]"]
    run = f"--trainer.default_root_dir={tmp_path / 'cli'}"
    lines = [refused_by_the_command_line(run, *late), refused_by_the_command_line(run, "--max_frames=40")]
    fit_tiny(tmp_path / "python", callbacks=[Reset(at_frames=[500])], max_frames=40)
    told = capsys.readouterr().err
    assert f"warning: {spelled(lines[0].replace('max_frames=200', 'max_frames=40'))}\n" in told
    assert f"warning: {spelled(lines[1])}\n" in told


# ---- the same Trainer ------------------------------------------------------------------------------------------------


def kinds(trainer: pl.Trainer) -> list[str]:
    return [type(callback).__name__ for callback in trainer.callbacks if type(callback).__name__ != "SaveRunConfig"]


def test_the_command_line_and_a_program_get_the_same_callbacks_in_the_same_order(tmp_path):
    options = ["--trainer.callbacks+=callbacks.Reset", "--trainer.callbacks.at_frames=[50]"]
    run = build_only(["fit", *TINY, "--max_frames=200", f"--trainer.default_root_dir={tmp_path / 'run'}", *options])
    ours = make_trainer(tmp_path / "run", callbacks=[Reset(at_frames=[50])], enable_progress_bar=False)
    theirs = [type(callback).__name__ for callback in run.callbacks if type(callback).__name__ != "SaveRunConfig"]
    assert theirs == kinds(ours)
    assert theirs == ["RunFolder", "Reset", "RunMonitor", "EvalVideo", "DetectNaN", "BestCheckpoint", "LastCheckpoint"]
    folders = {callback.dirpath for callback in ours.callbacks if isinstance(callback, ModelCheckpoint)}
    assert folders == {callback.dirpath for callback in run.callbacks if isinstance(callback, ModelCheckpoint)}
    assert folders == {str(tmp_path / "run" / "checkpoints")}


@pytest.mark.parametrize("given", [{}, {"logger": True}, {"logger": None}], ids=str)
def test_the_usual_logger_is_ours_however_it_is_asked_for(given, tmp_path):
    (logger,) = make_trainer(tmp_path, enable_progress_bar=False, accelerator="cpu", **given).loggers
    assert type(logger) is RunLogger
    assert Path(logger.log_dir) == tmp_path


def test_another_logger_and_none_are_taken_as_given(tmp_path):
    own = CSVLogger(tmp_path)
    assert make_trainer(tmp_path, **{**PLAIN, "logger": own}).loggers == [own]
    assert make_trainer(tmp_path, **PLAIN).loggers == []


@pytest.mark.parametrize("given", [None, Reset(at_frames=[5])], ids=["none", "one"])
def test_callbacks_as_lightning_takes_them(given, tmp_path):
    assert ("Reset" in kinds(make_trainer(tmp_path, callbacks=given, **PLAIN))) is (given is not None)
