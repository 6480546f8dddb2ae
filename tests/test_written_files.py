"""What a run and a report write: not through a symbolic link, readable as before, and no key for everybody."""

from __future__ import annotations

import os
import pickle
import stat
import sys
from pathlib import Path

import pytest
import torch
import yaml
from cli_runs import call, fit_tiny_cli, printed_config
from run_folders import write_run

from plasticity_rl import UserError
from plasticity_rl.files import writing
from plasticity_rl.files.credentials import (
    HIDDEN,
    command_without_secrets,
    holds_secret,
    mentions_secret,
    without_secrets,
)
from plasticity_rl.files.places import expanded, run_folder_of
from plasticity_rl.replay.files import RecordFiles
from plasticity_rl.replay.layout import RecordLayout

KEY = "0123456789abcdef0123"


def test_a_run_does_not_follow_links_to_files(tmp_path):
    """Traps under every name that can be guessed; links to folders are the user's business."""
    victim, run, disk = tmp_path / "victim", tmp_path / "run", tmp_path / "disk"
    victim.write_text("precious")
    disk.mkdir()
    (run / "checkpoints").mkdir(parents=True)
    names = ["config.yaml", ".new.config.yaml", "finished.yaml", "error.txt", "hparams.yaml"]
    names += ["checkpoints/.checkpoint.tmp", ".new.finished.yaml"]
    for name in ("high_water.bin", ".checkpoint.tmp", "replay.json.tmp"):
        (disk / "rank0").mkdir(exist_ok=True)
        (disk / "rank0" / name).symlink_to(victim)
    (disk / "rank0" / "records").symlink_to(tmp_path)
    for name in names:
        (run / name).symlink_to(victim)
    (run / "checkpoints").rename(tmp_path / "prepared")  # a folder with checkpoints/ holds a run
    (run / "config.yaml").unlink()  # which would be kept, for it says that there is a run
    fit_tiny_cli(run, f"--data.replay_dir={disk}", max_frames=100)
    assert victim.read_text() == "precious"
    assert not [path for path in run.rglob("*") if path.is_symlink() and path.name != "error.txt"]
    assert (disk / "rank0" / "replay.json").is_file()
    assert not list(tmp_path.glob("*.memmap"))

    (run / "starts.yaml").rename(tmp_path / "starts")
    (run / "starts.yaml").symlink_to(tmp_path / "starts")
    result = call("fit", f"--ckpt_path={run / 'checkpoints' / 'last.ckpt'}", "--max_frames=200")
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    assert "starts.yaml is a symbolic link; a run writes into its own folder only" in result.err


def test_a_file_is_replaced_whole_with_the_mode_of_any_other(tmp_path):
    path, target = tmp_path / "report.md", tmp_path / "target"
    target.write_text("old")
    path.symlink_to(target)
    umask = os.umask(0o027)
    try:
        writing.replace_file(path, "new")
        writing.replace_file(tmp_path / "mine", "new", private=True)
    finally:
        os.umask(umask)
    assert (path.read_text(), path.is_symlink(), target.read_text()) == ("new", False, "old")
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("report.md", "mine")] == [0o640, 0o600]
    with pytest.raises(IsADirectoryError), writing.drafted(path) as draft:
        draft.parent.write_text("half")
    assert path.read_text() == "new"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["mine", "report.md", "target"]


def test_reports_and_figures_do_not_follow_links(tmp_path):
    run = write_run(tmp_path / "run", {"eval/return": {0: 1.0, 100: 2.0}})
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("figure.svg", "figure.html"):
        (tmp_path / name).symlink_to(victim)
        result = call("plot", run, "--out", tmp_path / name)
        assert result.code == 0, result.err
        assert "<svg" in (tmp_path / name).read_text()
    assert victim.read_text() == "precious"


# ---- the replay of somebody else -------------------------------------------------------------------------------------

LAYOUT = RecordLayout(frame_shape=(3,), action_dim=1, num_lanes=1, lane_length=4, slack=2, observation="state")


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (str(self.path), "w")


def opened(folder: Path) -> RecordFiles:
    files_ = RecordFiles(folder, LAYOUT)
    files_.open("run", 0, torch.tensor([2]), torch.tensor([0]))
    return files_


def test_a_replay_holds_no_code(tmp_path):
    """Tensordict unpickles a column that the description calls one of another type."""
    folder = tmp_path / "replay"
    RecordFiles(folder, LAYOUT).create("run")
    described = yaml.safe_load((folder / "records" / "meta.json").read_text())
    described["_type"] = "<class 'tensordict.tensorclass.NonTensorData'>"
    described["evil"] = {"type": "NonTensorData"}
    (folder / "records" / "meta.json").write_text(str(described).replace("'", '"'))
    for place in ("records", "records/evil", "records/action"):
        (folder / place).mkdir(exist_ok=True)
        (folder / place / "other.pickle").write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    with pytest.raises(UserError, match=r"meta\.json"):  # no JSON any more
        opened(folder)
    (folder / "records" / "meta.json").write_text(__import__("json").dumps(described))
    records = opened(folder).records
    assert set(records.keys()) == set(LAYOUT.columns())
    assert not (tmp_path / "ran").exists()


def test_a_replay_that_leads_elsewhere_is_refused(tmp_path):
    folder = tmp_path / "replay"
    RecordFiles(folder, LAYOUT).create("run")
    column = folder / "records" / "reward.memmap"
    column.rename(tmp_path / "precious")
    column.symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match=r"reward\.memmap is a symbolic link"):
        opened(folder)


# ---- secrets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--trainer.logger.api_key=abc"], "--trainer.logger.api_key=***"),
        (["--trainer.logger.init_args.api_key", "abc", "--x=1"], "--trainer.logger.init_args.api_key *** --x=1"),
        (["--a={class_path: Y, init_args: {token: abc, b: c}}"], "--a={class_path: Y, init_args: {token: ***, b: c}}"),
        (['--a={"password": "abc"}'], '--a={"password": ***}'),
        (["--uri=https://me:abc@host/x"], "--uri=***"),
        (["--note=hf_abcdefghijklmnopqrstuvwx"], "--note=***"),
        ([f"--note=is-{KEY}"], "--note=***"),  # the value of an environment variable
        (["fit", "--data.task=walker_run", "--c", "a:b"], "fit --data.task=walker_run --c a:b"),
    ],
)  # fmt: skip
def test_a_command_is_noted_without_secrets(args, expected, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", KEY)
    assert command_without_secrets(args) == expected


def test_no_packaged_config_looks_secret_and_a_secret_is_found_at_any_depth():
    config = printed_config("--config=quickstart")
    assert not holds_secret(config)
    assert mentions_secret({"base": ["configs/a.yaml", "trainer.logger.api_key=abc"]})
    assert not mentions_secret({"base": ["configs/a.yaml", "data.task=walker_run"], "factors": {"a": {"b": ["x=1"]}}})
    assert without_secrets(config) == config
    config["trainer"]["logger"] = [{"init_args": {"api_key": KEY, "project": "p"}}]
    assert holds_secret(config)
    assert without_secrets(config)["trainer"]["logger"] == [{"init_args": {"api_key": HIDDEN, "project": "p"}}]


def test_a_key_of_a_logger_is_for_the_owner_alone_and_the_run_goes_on(tmp_path, monkeypatch):
    """The config has it, or the run could not go on; nothing else in the folder does."""
    (tmp_path / "own_logger.py").write_text(
        "from lightning.pytorch.loggers import CSVLogger\n"
        "class Keyed(CSVLogger):\n"
        "    def __init__(self, api_key: str, save_dir: str):\n"
        f"        assert api_key == {KEY!r}\n"
        "        super().__init__(save_dir)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    run = tmp_path / "run"
    logger = [f"--trainer.logger.api_key={KEY}", f"--trainer.logger.save_dir={run}"]
    logger = ["--trainer.logger=own_logger.Keyed", *logger]
    monkeypatch.setattr(sys, "argv", ["plasticity-rl", "fit", *logger])
    fit_tiny_cli(run, *logger, max_frames=100)
    assert stat.S_IMODE((run / "config.yaml").stat().st_mode) == 0o600
    assert KEY in (run / "config.yaml").read_text()
    others = [path for path in run.rglob("*") if path.is_file() and path.name != "config.yaml"]
    assert not [path for path in others if KEY.encode() in path.read_bytes()]
    assert f"--trainer.logger.api_key={HIDDEN}" in (run / "starts.yaml").read_text()
    monkeypatch.setattr(sys, "argv", ["plasticity-rl", "fit"])
    result = call("fit", f"--ckpt_path={run / 'checkpoints' / 'last.ckpt'}", "--max_frames=200")
    assert result.code == 0, result.err


# ---- paths -----------------------------------------------------------------------------------------------------------


def test_what_a_path_means(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RUNS_", "there")
    assert expanded("~/$RUNS_/a", "x") == f"{tmp_path}/there/a"
    assert expanded(Path("~/${RUNS_}"), "x") == tmp_path / "there"
    assert expanded("costs $5/~", "x") == "costs $5/~"
    with pytest.raises(UserError, match=r"x=\$NOT_SET_/a: the environment variable \$NOT_SET_ is not set"):
        expanded("$NOT_SET_/a", "x")
    with pytest.raises(UserError, match="there is no home folder ~nobody_of_that_name"):
        expanded("~nobody_of_that_name/a", "x")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    for name in ("checkpoints/last.ckpt", "checkpoints/eval/return=1.ckpt", "best/x.ckpt", "hpc_ckpt_1.ckpt"):
        assert run_folder_of(tmp_path / "run" / name) == tmp_path / "run"
    assert run_folder_of(tmp_path / "a" / "b.ckpt") is None


def test_a_run_in_the_home_folder_has_one_folder_and_goes_on_from_anywhere(tmp_path, monkeypatch):
    home, work, other = tmp_path / "home", tmp_path / "work", tmp_path / "other"
    for folder in (home, work, other):
        folder.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("MY_RUNS", "~/r")
    monkeypatch.chdir(work)
    places = ["--data.replay_dir=replays/one", "--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint"]
    fit_tiny_cli(Path("~/r"), *places, "--trainer.callbacks.dirpath=$HOME/best", max_frames=100)
    assert sorted(path.name for path in work.iterdir()) == ["replays"]
    assert sorted(path.name for path in home.iterdir()) == ["best", "r"]
    monkeypatch.chdir(other)
    for number, command in enumerate(
        (
            ["--ckpt_path=last", "--trainer.default_root_dir=~/r"],
            ["--ckpt_path", "~/r/checkpoints/last.ckpt"],
            ["--config=~/r/config.yaml", "--ckpt_path=$HOME/r/checkpoints/last.ckpt"],
        )
    ):
        result = call("fit", *command, f"--max_frames={200 + 100 * number}")
        assert result.code == 0, (command, result.err)
    assert list(other.iterdir()) == []
    assert yaml.safe_load((home / "r" / "finished.yaml").read_text())["env_frames"] == 400
    assert call("plot", "~/r", "--out", "~/figure.svg").code == 0
    assert (home / "figure.svg").is_file()


def test_the_current_folder_is_no_password(monkeypatch):
    """Though its variable is called as some call one; DATABASE_PWD is one."""
    for name in ("PWD", "OLDPWD"):
        monkeypatch.setenv(name, "/home/me/project")
    config = {"trainer": {"default_root_dir": "/home/me/project/runs/a"}}
    assert not holds_secret(config)
    assert without_secrets(config) == config
    monkeypatch.setenv("DATABASE_PWD", "/home/me")
    assert holds_secret(config)
