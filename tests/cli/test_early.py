"""The command line is read once, before there is a parser, and so are the config files and the checkpoint it names."""

from __future__ import annotations

import builtins
import io
from collections import Counter
from pathlib import Path

import pytest
import torch
from cli_runs import TINY, call, fit_tiny_cli, write_yaml

from plasticity_rl import UserError
from plasticity_rl.cli.early import option_values, options, read


def test_options_in_either_spelling():
    args = ["fit", "--agent", "sac", "--data.observation=state", "-c", "a.yaml", "--flag"]
    assert list(options(args)) == [
        ("--agent", "sac"),
        ("--data.observation", "state"),
        ("-c", "a.yaml"),
        ("--flag", ""),
    ]
    assert option_values(args, "--config", "-c") == ["a.yaml"]


def agent(*args: str | Path) -> object:
    return read(["fit", *map(str, args)]).setting("agent", "drqv2")


def test_the_last_value_counts_from_files_and_options(tmp_path):
    sac = write_yaml(tmp_path / "sac.yaml", {"agent": "sac", "data": {"observation": "state"}})
    other = write_yaml(tmp_path / "other.yaml", {"data": {"task": "walker_run"}})
    assert agent() == "drqv2"
    assert agent("--config", sac) == "sac"
    assert agent(f"--config={sac}", "--agent=drqv2") == "drqv2"
    assert agent("--agent=drqv2", f"--config={sac}") == "sac"
    both = read(["fit", f"--config={sac}", f"-c={other}"])
    assert both.setting("data.observation") == "state"
    assert list(both.settings("data.task")) == [(str(other), "walker_run")]


def test_options_written_out_in_place_of_a_file_count_too():
    assert agent("--config={agent: sac}") == "sac"
    assert agent("--config=agent: sac\ndata: {}") == "sac"


def test_what_is_no_file_is_left_to_the_parser_and_what_is_broken_refused(tmp_path):
    for given in (tmp_path / "absent.yaml", tmp_path, "agent: [", ""):
        assert agent(f"--config={given}") == "drqv2"
    (tmp_path / "broken.yaml").write_text("agent: [")
    with pytest.raises(UserError, match=r"broken\.yaml is not valid YAML: .*line 1"):
        agent("--config", tmp_path / "broken.yaml")


def test_the_config_of_a_checkpoints_run_is_read_with_the_command(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    config = write_yaml(tmp_path / "config.yaml", {"agent": "sac"})
    command = read(["fit", f"--ckpt_path={tmp_path}/checkpoints/last.ckpt"])
    assert command.args == (
        "fit",
        f"--config={config}",
        f"--trainer.default_root_dir={tmp_path}",
        f"--ckpt_path={tmp_path}/checkpoints/last.ckpt",
    )
    assert command.setting("agent") == "sac"
    (tmp_path / "config.yaml").write_text("agent: sac\nagent: drqv2\n")
    with pytest.raises(UserError, match=r"config\.yaml is not valid YAML: 'agent' twice in one section, line 2"):
        read(["fit", f"--ckpt_path={tmp_path}/checkpoints/last.ckpt"])


def counted(plain, files: Counter[str]):
    """Return ``plain``, a function of a file, with its calls counted by file."""

    def counting(file, *args, **options):
        files[str(file)] += 1
        return plain(file, *args, **options)

    return counting


def test_a_config_file_is_opened_by_us_once_and_by_the_parser_once(tmp_path, monkeypatch):
    config = str(write_yaml(tmp_path / "c.yaml", {"agent": "sac", "data": {"observation": "state"}}))
    opened: Counter[str] = Counter()
    counting = counted(builtins.open, opened)
    monkeypatch.setattr(builtins, "open", counting)
    monkeypatch.setattr(io, "open", counting)  # pathlib's
    assert call("fit", "--config", config, "--print_config").code == 0
    assert opened[config] == 2


@pytest.mark.parametrize("how", ["last", "file", "validate", "probe"])
def test_a_checkpoint_is_read_from_the_disk_once(how, tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    fit_tiny_cli(run_dir, max_frames=100)
    path = run_dir / "checkpoints" / "last.ckpt"
    read_by_torch: Counter[str] = Counter()
    monkeypatch.setattr(torch, "load", counted(torch.load, read_by_torch))
    more = [*TINY, "--max_frames=200", f"--trainer.default_root_dir={run_dir}"]
    command = {
        "last": ["fit", *more, "--ckpt_path=last"],
        "file": ["fit", f"--ckpt_path={path}", "--max_frames=200"],
        "validate": ["validate", f"--ckpt_path={path}"],
        "probe": ["probe", path, "--probes", "SRank"],
    }[how]
    result = call(*command)
    assert result.code == 0, result.err
    assert read_by_torch == {str(path): 1}
