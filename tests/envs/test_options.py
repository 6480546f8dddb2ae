"""The options of an environment as one object: checks, identity, and a second backend beside DeepMind Control."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
from line_backend import LINE, LineOptions

from plasticity_rl import UserError, make_env
from plasticity_rl.cli import catalogue
from plasticity_rl.envs import backends, task_names
from plasticity_rl.envs.dmc_options import DMControlOptions
from plasticity_rl.envs.make import check_task


def test_the_identity_in_a_checkpoint_has_the_names_that_it_always_had():
    expected = {"task": "cup_catch", "observation": "pixels", "action_repeat": 4, "frame_stack": 3, "image_size": 84}
    options = DMControlOptions("cup_catch", action_repeat=4)
    assert options.values == {**expected, "render": "exact", "camera_id": None}
    assert list(options.values)[:5] == list(expected)


def test_options_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        DMControlOptions().image_size = 3  # type: ignore[misc]


def test_what_pictures_mean_to_states():
    states = DMControlOptions("walker_run", observation="state", image_size=5000, frame_stack=2)
    assert states.experience == {"task": "walker_run", "observation": "state", "action_repeat": 2}
    assert (states.stacked_frames, states.least_observation_bytes, states.draws) == (1, 0, False)
    pixels = DMControlOptions("walker_run", image_size=10, frame_stack=2)
    assert pixels.experience == pixels.values
    assert (pixels.stacked_frames, pixels.least_observation_bytes, pixels.draws) == (2, 3 * 2 * 100, True)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("observation", "touch", "observation='touch' must be one of \\['pixels', 'state'\\]"),
        ("action_repeat", 0, "action_repeat=0 must be a whole number >= 1"),
        ("image_size", 5000, "image_size=5000 must be at most 4096: neither .* published: 84"),
        ("render", "nice", "render='nice' must be one of \\['exact', 'fast'\\]"),
    ],
)
def test_a_bad_option_is_refused_without_the_simulator(option, value, says):
    with pytest.raises(UserError, match=f"^{says}$"):
        DMControlOptions("walker_run", **{option: value})


def test_refusals_come_before_dm_control_is_imported():
    code = (
        "import sys; from plasticity_rl import RLDataModule, UserError\n"
        "try: RLDataModule('walker_run', image_size=0)\n"
        "except UserError as error: print(error, 'dm_control' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "image_size=0 must be a whole number >= 1 False"


def test_an_unknown_option_is_named():
    with pytest.raises(UserError, match=r"there is no option 'img_size'\. Did you mean image_size\?"):
        make_env("walker_run", seed=0, img_size=3)


# ---- another backend -------------------------------------------------------------------------------------------------


@pytest.fixture
def line(monkeypatch):
    """Register the backend: the one line outside of its module."""
    monkeypatch.setattr(backends, "BACKENDS", {**backends.BACKENDS, **LINE})


def test_a_prefix_chooses_the_backend(line):
    assert backends.options_class("line:near") is LineOptions
    assert backends.options_class("walker_run") is DMControlOptions
    assert backends.options_class("lime:near") is DMControlOptions
    assert {"line:ends", "walker_run"} <= set(task_names())
    assert {"line:ends", "walker_run"} <= set(catalogue.tasks())
    with pytest.raises(UserError, match=r"task='line:nera' is not a line task\. Did you mean line:near"):
        check_task("line:nera")


def test_environments_of_another_backend(line):
    env = make_env("line:ends", seed=3, num_envs=2, observation="state")
    assert (env.task_name, env.action_repeat, env.reset()["state"].shape) == ("line:ends", 4, (2, 2))
    assert env.set_seed(4) == 6
    env.close()
    with pytest.raises(UserError, match=r"sticky=2 must be in \[0, 1\]; published: 0\.25"):
        make_env("line:near", seed=0, sticky=2)
    with pytest.raises(UserError, match=r"no option 'render'\. There are task, observation, action_repeat, sticky\."):
        make_env("line:near", seed=0, render="fast")
