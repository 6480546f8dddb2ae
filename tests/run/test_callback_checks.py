"""What is refused or remarked about the callbacks of a run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from cli_runs import REPOSITORY, TINY, append_callbacks, call
from helpers import tiny_data
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks import (
    AdaptiveReplayRatio,
    ContinualTasks,
    FractionActiveUnits,
    HareAndTortoise,
    PlasticityInjection,
    ReDo,
    Reset,
)
from plasticity_rl.callback import RLCallback
from plasticity_rl.errors import UserError
from plasticity_rl.run.callback_checks import idle_schedules, refuse_unsuitable
from plasticity_rl.run.trainer import make_trainer


@pytest.mark.parametrize(
    ("callback", "expected"),
    [
        (Reset(every_n_frames=300), "Reset.every_n_frames=300 is not shorter than this run, which has 300 frames"),
        (Reset(every_n_frames=299), None),
        (Reset(every_n_frames=300, at_frames=[50]), None),
        # (300 - 40 frames of the seed phase) / 2 frames * ratio 0.5
        (ReDo(every_n_updates=65), "ReDo.every_n_updates=65 is not shorter than this run, which has 65 updates"),
        (HareAndTortoise(every_n_updates=64), None),
        (ContinualTasks(tasks=["tiny", "tiny_away"], every_n_frames=400), "ContinualTasks.every_n_frames=400"),
        (PlasticityInjection(at_frames=[]), None),  # says itself that there is none
        (
            FractionActiveUnits(every_n_updates=66),
            "FractionActiveUnits.every_n_updates=66 is longer than this run, which",
        ),
        (FractionActiveUnits(every_n_updates=65), None),  # measures at the last one
    ],
)
def test_periods_longer_than_the_run(callback: RLCallback, expected: str | None):
    agent = SimpleNamespace(data=tiny_data(max_frames=300), num_seed_frames=40, replay_ratio=0.5)
    notes = idle_schedules([callback], agent)
    assert [note.startswith(expected or "") for note in notes] == [True] * (expected is not None)
    if isinstance(callback, (ReDo, FractionActiveUnits)):
        assert idle_schedules([callback, AdaptiveReplayRatio()], agent) == [], "nobody knows how many updates"


def test_the_command_line_says_so_and_goes_on(tmp_path):
    """The fragment is written for three million frames."""
    run_dir, config = tmp_path / "run", REPOSITORY / "configs" / "interventions" / "reset.yaml"
    options = [*TINY, "--max_frames=100", f"--trainer.default_root_dir={run_dir}"]
    result = call("fit", "--config", config, *options)
    assert result.code == 0, result.err
    (line,) = [line for line in result.err.splitlines() if line.startswith("warning: Reset")]
    assert line.endswith(
        "Reset.every_n_frames=300000 is not shorter than this run, which has 100 frames: it never acts"
    )
    fragment = append_callbacks(tmp_path / "fragment.yaml", [("callbacks.Reset", {"every_n_frames": 50})])
    result = call("fit", "--config", fragment, *options[:-1], f"--trainer.default_root_dir={tmp_path / 'other'}")
    assert result.code == 0, result.err
    assert "warning" not in result.err


def test_a_file_name_with_a_tag_that_is_never_logged_is_refused():
    """Lightning writes 0 in its place, and says nothing."""
    refuse_unsuitable([ModelCheckpoint(filename="{env_frames:.0f}_{eval/return:.1f}"), ModelCheckpoint()])
    message = r"ModelCheckpoint\.filename: \{eval/retrun\} is not logged through .* every file would have 0 there; .*"
    with pytest.raises(UserError, match=message + "eval/return"):
        refuse_unsuitable([ModelCheckpoint(filename="{epoch}_{eval/retrun:.1f}")])
    refuse_unsuitable([ModelCheckpoint(filename="{mine:.1f}"), Own()])


class Own(RLCallback):
    """Of the user's: may log anything."""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([Reset], r"callbacks has the class Reset: give an instance, Reset\(\.\.\.\)"),
        (Reset, r"callbacks has the class Reset: give an instance"),
        (["callbacks.Reset"], r"callbacks has 'callbacks.Reset', which is no callback: give instances, such as"),
    ],
)
def test_what_is_no_callback_is_refused(given, message, tmp_path):
    with pytest.raises(UserError, match=message):
        make_trainer(tmp_path, callbacks=given)
