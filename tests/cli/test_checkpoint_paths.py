"""What the path of a checkpoint says about its run, before anything is read: its folder, and whether it draws."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from cli_runs import TINY, TINY_SAC, call, fit_tiny_cli, tree, write_yaml
from line_backend import LINE

from callbacks import SRank
from plasticity_rl.checkpoint_files import CONFIGURATION
from plasticity_rl.cli import offline
from plasticity_rl.cli.drawing import draws
from plasticity_rl.cli.early import read, with_run_config
from plasticity_rl.cli.early_checks import refuse_early
from plasticity_rl.cli.rebuild import build_only
from plasticity_rl.cli.run_dirs import make_new
from plasticity_rl.envs import backends
from plasticity_rl.errors import UserError
from plasticity_rl.replay.donor import donor_replay


@pytest.fixture
def runs(tmp_path, monkeypatch) -> None:
    """Run folders ``state`` and ``pixels`` in the current folder, with nothing but their configs."""
    monkeypatch.chdir(tmp_path)
    for observation in ("state", "pixels"):
        Path(observation).mkdir()
        write_yaml(Path(observation, "config.yaml"), {"data": {"observation": observation}})


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("fit", True),
        ("fit --data.observation=state", False),
        ("fit --data.observation pixels", True),
        ("validate --ckpt_path=state/checkpoints/last.ckpt", False),
        ("validate --ckpt_path=pixels/checkpoints/last.ckpt", True),
        ("fit --ckpt_path last --trainer.default_root_dir=state", False),
        ("probe state/checkpoints/last.ckpt", False),
        ("probe pixels/checkpoints/last.ckpt --layers", True),
        ("probe --probes SRank --compare state/checkpoints/last.ckpt state/checkpoints/best.ckpt", False),
        ("probe --compare state/checkpoints/last.ckpt pixels/checkpoints/last.ckpt", True),
        ("probe nowhere/checkpoints/last.ckpt", True),
    ],
)
def test_whether_a_command_needs_a_renderer(command, expected, runs):
    assert draws(read(command.split())) is expected


def test_a_backend_says_whether_its_pictures_need_a_renderer(monkeypatch):
    monkeypatch.setattr(backends, "BACKENDS", {**backends.BACKENDS, **LINE})
    assert not draws(read(["fit", "--data.task=line:near"]))
    assert draws(read(["fit", "--data.task=lime:near"]))


def test_the_run_that_goes_on_is_the_one_whose_config_is_named(tmp_path):
    """Also of a folder that was copied or moved: its configs name the folder where it was."""
    first, copy = tmp_path / "first", tmp_path / "copy"
    fit_tiny_cli(first, max_frames=100)
    assert call("fit", f"--ckpt_path={first}/checkpoints/last.ckpt", "--max_frames=200").code == 0
    before = tree(first)
    shutil.copytree(first, copy)
    of_later_start = next(copy.glob("config_resumed_*.yaml"))
    frames = 200
    for config, checkpoint in ((copy / "config.yaml", "last"), (of_later_start, copy / "checkpoints" / "last.ckpt")):
        assert f"default_root_dir: {first}" in config.read_text()
        frames += 100
        result = call("fit", f"--config={config}", f"--ckpt_path={checkpoint}", f"--max_frames={frames}")
        assert result.code == 0, result.err
        assert f"Run folder:  {copy}" in result.out
        assert tree(first) == before
        saved = torch.load(copy / "checkpoints" / "last.ckpt", weights_only=True)
        assert saved["rl"]["env_frames"] == frames


def test_a_checkpoint_is_looked_at_with_the_options_that_it_was_written_with(tmp_path):
    """Of a run that went on with others: also where an option is null now, and where a probe is gone."""
    run, last = tmp_path / "run", tmp_path / "run" / "checkpoints" / "last.ckpt"
    first = [f"--trainer.default_root_dir={run}", "--data.reward_clip=1", "--trainer.callbacks+=callbacks.SRank"]
    assert call("fit", *TINY_SAC, *first, "--max_frames=100").code == 0
    shutil.copy(last, last.with_name("first.ckpt"))
    other = ["--data.discount=0.5", "--data.reward_clip=null", "--trainer.callbacks=null", "--max_frames=200"]
    assert call("fit", f"--config={run}/config.yaml", "--ckpt_path=last", *other).code == 0

    def options_of(path: Path) -> tuple[float, float | None, bool]:
        found = offline.restore_only(path, trusts=True)
        return found.data.discount, found.data.reward_clip, any(isinstance(one, SRank) for one in found.callbacks)

    assert options_of(last.with_name("first.ckpt")) == (0.99, 1.0, True)
    assert options_of(last) == (0.5, None, False)
    by_folder = build_only(["validate", "--ckpt_path=last", f"--trainer.default_root_dir={run}", "--trust"])
    assert by_folder.data.discount == 0.5
    saved = torch.load(last, weights_only=True)
    torch.save({name: value for name, value in saved.items() if name != CONFIGURATION}, last)
    assert options_of(last) == (0.99, 1.0, True)  # of a program, or of an old version: nothing else says


def test_a_run_goes_on_with_a_callback_more(tmp_path):
    run = tmp_path / "run"
    assert call("fit", *TINY_SAC, f"--trainer.default_root_dir={run}", "--max_frames=100").code == 0
    more = ["--max_frames=200", "--trainer.callbacks+=callbacks.FeatureNorm"]
    result = call("fit", f"--ckpt_path={run}/checkpoints/last.ckpt", *more)
    assert result.code == 0, result.err
    assert "Changed: FeatureNorm(" in result.out


@pytest.mark.parametrize(
    ("callbacks", "taken"),
    [
        (["+=callbacks.SRank", ".delta=0.1"], True),
        (["+=callbacks.ResetHeads", ".every_n_frames=100"], True),
        (["+=callbacks.Reset", ".every_n_frames=100"], False),  # the command with which the run was started
        (["+=callbacks.SRank", "+={class_path: callbacks.Reset}"], False),
        (["=[callbacks.SRank]"], True),  # instead of those of the run
        (["=null"], True),
    ],
)
def test_a_command_that_adds_other_callbacks_takes_the_config_of_the_run(callbacks, taken, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    entries = [{"class_path": "callbacks.Reset", "init_args": {"modules": ["critic"]}}]
    config = write_yaml(tmp_path / "config.yaml", {"trainer": {"callbacks": entries}})
    args = ["fit", f"--ckpt_path={tmp_path}/checkpoints/last.ckpt", *(f"--trainer.callbacks{one}" for one in callbacks)]
    assert (f"--config={config}" in with_run_config(args)) is taken


def test_a_second_callback_of_a_class_is_told_to_name_the_config_of_the_run(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    run = {"data": {"task": "cup_catch"}, "trainer": {"callbacks": [{"class_path": "callbacks.Reset"}]}}
    config = write_yaml(tmp_path / "config.yaml", run)
    options = ["--trainer.callbacks+=callbacks.Reset", "--trainer.callbacks.at_frames=[100]", "--max_frames=200"]
    args = ["fit", f"--ckpt_path={tmp_path}/checkpoints/last.ckpt", *options]
    with pytest.raises(UserError, match=rf"is of data.task=cup_catch, but .* name its config too: --config {config}$"):
        refuse_early(read(args))
    refuse_early(read([*args, "--data.task=cup_catch", "--model.num_seed_frames=100", "--data.batch_size=8"]))


@pytest.mark.parametrize("more", [[], ["--trainer.default_root_dir=elsewhere"], ["--ckpt_path=other.ckpt"]])
def test_a_config_that_lies_in_no_run_or_a_folder_that_is_named_decides_nothing(more, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("data: {}\n")
    if more:
        (tmp_path / "checkpoints").mkdir()
    args = ["fit", f"--config={config}", "--ckpt_path=last", *more]
    assert with_run_config(args) == args


@pytest.mark.parametrize("checkpoint", ["/last.ckpt", "last.ckpt", "../last.ckpt"])
def test_a_checkpoint_in_the_root_folder_has_no_run_around_it(checkpoint, monkeypatch):
    """There is no folder above; what is asked about is looked for in the root folder itself, and is not there."""
    monkeypatch.chdir("/")
    assert with_run_config(["validate", "--ckpt_path", checkpoint]) == ["validate", "--ckpt_path", checkpoint]
    with pytest.raises(UserError, match="no such file"):
        offline.restore_only(Path(checkpoint))
    for command in (["validate", "--ckpt_path"], ["probe"]):
        result = call(*command, checkpoint)
        assert (result.code, result.err.count("\n")) == (2, 1), result.err
    monkeypatch.setattr(Path, "is_file", lambda path: path.suffix == ".ckpt")
    with pytest.raises(UserError, match="lies in no run, so there is no replay beside it"):
        donor_replay(checkpoint)


def test_two_runs_that_start_in_one_second_have_two_folders(tmp_path, monkeypatch):
    """Made exclusively; one that is refused afterwards, or only builds, leaves none behind."""
    monkeypatch.chdir(tmp_path)
    first = make_new(Path("runs/tiny_seed1_20260101-000000"))
    second = make_new(Path("runs/tiny_seed1_20260101-000000"))
    assert (first.name, second.name) == ("tiny_seed1_20260101-000000", "tiny_seed1_20260101-000000_2")
    assert call("fit", *TINY, "--model.lr=-1").code == 2
    build_only(["fit", *TINY])
    assert sorted(Path("runs").iterdir()) == [first, second]
    Path("file").touch()
    assert make_new(Path("file/run")) == Path("file/run")
