"""Python files of one's own beside a config: found, behind all that is installed, and never those of somebody else."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import yaml
from cli_runs import TINY, call

from plasticity_rl.cli.early import read
from plasticity_rl.cli.own_files import folders_of, in_study, refuse_hidden_framework
from plasticity_rl.cli.parser_errors import one_line
from plasticity_rl.errors import UserError
from plasticity_rl.files import own_files

PROBE = """
import logging, random
import own_helper
import lightning.pytorch as pl

class Mine(pl.Callback):
    def on_fit_start(self, trainer, pl_module):
        print("mine acts", random.Random(0) is not None, logging.INFO)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder elsewhere with a config, a callback, and files that have the names of the standard library's."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "own_probe.py").write_text(PROBE)
    (folder / "own_helper.py").write_text("")
    for name in ("random", "logging"):
        (folder / f"{name}.py").write_text("raise RuntimeError('taken for the library of Python')")
    (folder / "mine.yaml").write_text("trainer: {callbacks+: {class_path: own_probe.Mine}}")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv(own_files.VARIABLE, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield folder
    forget()


def forget() -> None:
    """Make this process one that has imported nothing of these files."""
    own_files.put_on_path([])
    for name in ("own_probe", "own_helper"):
        sys.modules.pop(name, None)


def test_a_callback_beside_the_config_is_found_and_again_when_the_run_goes_on(folder, tmp_path, monkeypatch):
    path, run = list(sys.path), tmp_path / "run"
    fit = ("fit", *TINY, f"--config={folder / 'mine.yaml'}", f"--trainer.default_root_dir={run}")
    result = call(*fit, "--max_frames=100", trust=False)
    assert (result.code, "mine acts True 20" in result.out) == (0, True), result.err
    assert sys.path == [*path, str(folder)]  # behind all that is installed
    assert yaml.safe_load((run / "starts.yaml").read_text())[0]["own_files"] == [str(folder)]

    # From the run's own config it is imported with --trust only, from the folder that the run noted.
    monkeypatch.setattr(sys, "path", path)
    forget()
    copy = tmp_path / "sent"
    shutil.copytree(run, copy)
    shutil.copy(folder / "own_probe.py", copy)
    last = f"--ckpt_path={copy / 'checkpoints' / 'last.ckpt'}"
    result = call("fit", last, "--max_frames=200", "--data.env=tiny_env.make_tiny_env", trust=False)
    assert (result.code, "names 'own_probe.Mine'" in result.err) == (2, True)
    assert folders_of(read(["fit", last, "--trust"])) == [str(folder), str(copy)]
    result = call("fit", last, "--max_frames=200", trust=True)
    assert (result.code, "mine acts" in result.out) == (0, True), result.err


def test_folders_are_asked_in_order_and_only_for_what_is_named(folder, monkeypatch):
    config, here = f"--config={folder / 'mine.yaml'}", Path.cwd()
    assert folders_of(read(["fit", config])) == [str(folder)]
    (here / "own_probe.py").write_text("")
    assert folders_of(read(["fit", config])) == [str(folder), str(here)]
    assert folders_of(read(["fit", "--data.task=torchrl:own_helper.make"])) == []
    monkeypatch.setenv(own_files.VARIABLE, str(folder))
    assert folders_of(read(["fit", "--trainer.callbacks+=own_probe.Mine"])) == [str(folder), str(here)]
    assert folders_of(read(["fit", "--data.task=torchrl:own_helper.make"])) == [str(folder)]
    assert folders_of(read(["fit", "--data.task=gym:own_helper:Line-v0"])) == [str(folder)]
    assert folders_of(read(["fit", "--max_frames=100"])) == []


def test_a_study_hands_the_folder_of_its_file_to_its_runs(folder, monkeypatch):
    study = folder / "study.yaml"
    content = {
        "base": ["configs/mini_state.yaml", "trainer.callbacks+=own_probe.Mine"],
        "max_frames": 4000,
        "tasks": ["gym:Pendulum-v1"],
        "seeds": [1],
        "factors": {"reset": {"off": []}},
    }
    study.write_text(yaml.safe_dump(content))
    monkeypatch.setenv(own_files.VARIABLE, "")  # so that it is put back
    result = call("study", "run", str(study), "--dry-run")
    assert result.out.startswith(f"{own_files.VARIABLE}={folder} plasticity-rl fit --config configs/mini_state.yaml ")
    assert result.out.endswith("_root_dir=runs/study/gym-Pendulum-v1/off/seed1\n")
    with pytest.raises(UserError, match=r"random is looked for in .*random\.py, which has the name random before your"):
        in_study([study], ["trainer.callbacks+=random.Mine"])


@pytest.mark.parametrize("name", ["random", "callbacks"])
def test_a_file_of_ones_own_that_an_installed_one_hides_is_told_with_both_paths(name, folder):
    (folder / f"{name}.py").write_text(PROBE)
    (folder / "mine.yaml").write_text(f"trainer: {{callbacks+: {{class_path: {name}.Mine}}}}")
    result = call("fit", f"--config={folder / 'mine.yaml'}", "--trainer.callbacks+=callbacks.Reset", trust=False)
    assert (result.code, result.err.count("\n")) == (2, 1)
    installed = Path(own_files.found_in(name))
    assert f"is looked for in {installed}, which has the name {name} before your {folder / name}.py" in result.err
    assert call("fit", "--config=mini_state", "--trainer.callbacks+=callbacks.Reset", "--print_config").code == 0


def test_a_file_of_ones_own_that_hides_the_framework_is_told_with_both_paths(folder, monkeypatch):
    refuse_hidden_framework()
    theirs, ours = folder / "callbacks" / "__init__.py", own_files.found_in("callbacks")
    theirs.parent.mkdir()
    theirs.write_text("")
    monkeypatch.delitem(sys.modules, "callbacks", raising=False)
    monkeypatch.syspath_prepend(str(folder))
    with pytest.raises(UserError, match=f"{theirs} hides {ours}: .*; rename yours"):
        refuse_hidden_framework()
    assert call("fit", "--config=mini_state").code == 2


def test_a_class_that_nobody_finds_says_where_it_is_looked_for(folder):
    report = (
        "Parser key \"trainer.callbacks\": Problem with given class_path 'own_prob.Mine':\n No module named 'own_prob'"
    )
    own_files.put_on_path([], [str(folder)])
    line = one_line(report)
    assert "own_prob.py of your own is found beside a --config file" in line
    assert line.endswith("Did you mean own_probe, own_helper?")
