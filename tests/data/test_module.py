"""Which options the data module has, in Python, on the command line, in a checkpoint; how far back runs are resumed."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields

import pytest
import torch
import yaml
from cli_runs import TINY, call, checkpoint
from helpers import TINY_DISCRETE, fit_tiny, tiny_data, tiny_dqn
from line_backend import LINE
from run_state import differences, run_state
from tensordict import TensorDict

from plasticity_rl import RLDataModule, UserError
from plasticity_rl.data.module import data_module_of
from plasticity_rl.data.options import DataOptions
from plasticity_rl.envs import backends
from plasticity_rl.envs.dmc_options import DMControlOptions
from plasticity_rl.replay.buffer import FrameReplay, replay_bytes

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


# ---- how far back a checkpoint can be resumed ------------------------------------------------------------------------


@pytest.mark.parametrize(("epochs", "back", "episode_steps"), [(1, 1, 1), (2, 1, 1), (2, 2, 2)])
def test_slack_has_room_for_the_last_frames_of_short_episodes(epochs, back, episode_steps, tmp_path):
    """Without: 2198 records after the newest checkpoint, and room for 1100 + 1000."""
    data = tiny_data(observation="state", eval_every_n_frames=2200, resumable_epochs=epochs)

    def replay() -> FrameReplay:
        shape = {"obs_shape": (2,), "action_dim": 1, "observation": "state", "frame_stack": 1, "n_step": 1}
        return FrameReplay(**shape, capacity=100, batch_size=8, folder=tmp_path, slack=data._slack())

    def write(steps: int) -> None:
        for step in range(1, steps + 1):
            done = torch.tensor([[step % episode_steps == 0]])
            following = {"state": torch.zeros(1, 2), "reward": torch.zeros(1, 1), "discount": torch.ones(1, 1)}
            one = {"state": torch.zeros(1, 2), "action": torch.zeros(1, 1), "next": {**following, "done": done}}
            first.write(TensorDict(one, batch_size=[1]))

    first = replay()
    write(200)
    checkpoint = first.state_dict()
    write(1100 * back - 1)
    first.flush()
    replay().load_state_dict(checkpoint)


@pytest.mark.parametrize(("frames", "records"), [(1_000_000, 100 + 2 * 1600), (800, 400)])
def test_what_a_full_replay_takes_counts_the_records_that_resuming_needs(frames, records):
    """Three epochs of 200 steps and 1000, in each of two environments; and a run that is too short to fill them."""
    data = tiny_data(
        observation="state", num_envs=2, action_repeat=2, capacity=100, eval_every_n_frames=800, max_frames=frames
    )
    shape = (data.obs_shape, data.stacked_frames, data.action_dim)
    assert data.replay_size_bytes == replay_bytes(*shape, records, 2, observation="state")


@pytest.mark.parametrize("own", [{"storage": "memmap"}, {"prioritized": True}], ids=lambda own: next(iter(own)))
def test_a_run_with_the_slack_of_before_goes_on_with_it(own, tmp_path, monkeypatch):
    """Two epochs of 50 env steps and 1000, without the epoch for last frames."""
    run = {"make_agent": tiny_dqn, "data_options": {**TINY_DISCRETE, **own, "capacity": 40}}
    with monkeypatch.context() as before:
        before.setattr(RLDataModule, "_slack", lambda data: 2 * 50 + 1000)
        whole = fit_tiny(tmp_path / "whole", **run)
        fit_tiny(tmp_path / "run", max_frames=100, **run)
    resumed = fit_tiny(tmp_path / "run", ckpt_path="last", **run)
    layout = checkpoint(tmp_path / "run")["RLDataModule"]["replay"]["storage"]["layout"]
    assert layout["slack"] == 1100
    assert differences(run_state(resumed), run_state(whole)) == []
