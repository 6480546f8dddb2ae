"""What the path of a checkpoint says about its run, before anything is read: its folder, and whether it draws."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from cli_runs import TINY, call, fit_tiny_cli, write_yaml
from line_backend import LINE

from plasticity_rl.cli import offline
from plasticity_rl.cli.drawing import draws
from plasticity_rl.cli.early import read, with_run_config
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
    """Also of a folder that was copied or moved: its config names the folder where it was."""
    fit_tiny_cli(tmp_path / "first", max_frames=100)
    before = (tmp_path / "first" / "checkpoints" / "last.ckpt").read_bytes()
    shutil.copytree(tmp_path / "first", tmp_path / "copy")
    config = tmp_path / "copy" / "config.yaml"
    assert f"default_root_dir: {tmp_path / 'first'}" in config.read_text()
    result = call("fit", f"--config={config}", "--ckpt_path=last", "--max_frames=200")
    assert result.code == 0, result.err
    assert f"Run folder:  {tmp_path / 'copy'}" in result.out
    assert (tmp_path / "first" / "checkpoints" / "last.ckpt").read_bytes() == before
    saved = torch.load(tmp_path / "copy" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["rl"]["env_frames"] == 200


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
