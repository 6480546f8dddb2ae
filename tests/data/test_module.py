"""Which options the data module has: in Python, on the command line, in a checkpoint, whatever the environment."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields

import pytest
import torch
import yaml
from cli_runs import TINY, call
from helpers import tiny_data
from line_backend import LINE

from plasticity_rl import RLDataModule, UserError
from plasticity_rl.data.module import data_module_of
from plasticity_rl.data.options import DataOptions
from plasticity_rl.envs import backends
from plasticity_rl.envs.dmc_options import DMControlOptions

LINE_RUN = ["--data.task=line:near", *(option for option in TINY if not re.match(r"--data\.(env|task|image)", option))]


@pytest.fixture
def line(monkeypatch):
    monkeypatch.setattr(backends, "BACKENDS", {**backends.BACKENDS, **LINE})


def test_the_signature_is_that_of_the_options():
    shown = inspect.signature(RLDataModule).parameters
    declared = [field for options in (DMControlOptions, DataOptions) for field in fields(options)]
    assert list(shown) == [field.name for field in declared]
    assert [parameter.default for parameter in shown.values()] == [field.default for field in declared]
    assert shown["task"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert shown["camera_id"].annotation == int | None


def test_options_are_attributes_and_one_object():
    data = tiny_data(n_step=2, action_repeat=4)
    assert (data.n_step, data.batch_size, data.action_repeat, data.task) == (2, 8, 4, "tiny")
    assert data.environment == DMControlOptions("tiny", action_repeat=4, image_size=16)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"bach_size": 3}, r"^there is no option 'bach_size'\. Did you mean batch_size"),
        ({"camera": 3}, r"^there is no option 'camera'\. Did you mean camera_id"),
        ({"frame_stack": 0}, r"^frame_stack=0 must be a whole number >= 1$"),
        ({"storage": "tape"}, r"^storage='tape' must be one of \['ram', 'memmap', 'device'\]$"),
        ({"max_frames": 3, "action_repeat": 4}, r"^num_envs=1 \* action_repeat=4 = 4 env frames"),
    ],
)
def test_what_is_wrong_is_named_as_an_argument(options, says):
    with pytest.raises(UserError, match=says):
        tiny_data(**options)


def test_another_environment_has_other_options_and_the_same_state_in_a_checkpoint(line):
    shown = data_module_of("line:near")
    assert issubclass(shown, RLDataModule)
    assert shown.__qualname__ == "RLDataModule"  # Lightning's key of it in a checkpoint
    names = ["task", "observation", "action_repeat", "sticky", "num_envs"]
    assert list(inspect.signature(shown).parameters)[:5] == names
    assert inspect.signature(shown).parameters["action_repeat"].default == 4
    assert data_module_of("walker_run") is RLDataModule
    with pytest.raises(UserError, match=r"^sticky=3 must be in \[0, 1\]"):
        RLDataModule("line:near", sticky=3)
    with pytest.raises(UserError, match=r"no option 'render'"):
        RLDataModule("line:near", render="fast")


def test_the_command_line_has_the_options_of_the_task(line, tmp_path):
    text = call("fit", "--data.task=line:near", "--help=all").out
    assert "Probability that an action is repeated" in " ".join(text.split())
    assert "default: 0.25" in text
    assert "--data.render" not in text
    assert "--data.n_step N_STEP  Steps of the n-step return. (type: int, default: 3)" in text
    run = [f"--trainer.default_root_dir={tmp_path / 'run'}"]
    result = call("fit", *LINE_RUN, "--data.sticky=0.5", "--max_frames=100", *run)
    assert result.code == 0, result.err
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["RLDataModule"]["identity"]
    assert saved == {
        **{"task": "line:near", "observation": "pixels", "action_repeat": 2, "sticky": 0.5},
        **{"num_envs": 1, "seed": 1},
    }
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["data"]["sticky"] == 0.5
    resumed = call("fit", "--ckpt_path=last", *run, "--max_frames=200")
    assert resumed.code == 0, resumed.err
    other = call("fit", "--ckpt_path=last", *run, "--max_frames=300", "--data.sticky=0.25")
    assert (other.code, other.err.count("\n")) == (2, 1)
    assert "written with data.sticky=0.5, but this run has 0.25" in other.err


def test_an_option_of_another_environment_is_refused(line):
    result = call("fit", *LINE_RUN, "--data.render=fast", "--max_frames=100")
    assert result.code == 2
    assert "--data.render" in result.err
