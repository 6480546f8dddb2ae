"""docs/tutorial.md is what docs/tutorial.py ran: its commands are understood, and its pictures are those of a run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import tutorial
from cli_runs import call, printed_config

from plasticity_rl.cli.commands import plot, probe

PAGE = tutorial.PAGE.read_text()
STEPS = tutorial.steps(PAGE)
COMMANDS = [step.body for step in STEPS if step.file is None]
RUNS = re.findall(r"--trainer.default_root_dir (\S+)", "\n".join(COMMANDS))
STUDY = "runs/rescue_study/"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the files that the reader has written."""
    folder = tmp_path_factory.mktemp("tutorial")
    for step in STEPS:
        if step.file is not None:
            (folder / step.file).write_text(step.body)
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_understood(command, folder, monkeypatch):
    """Not run: its options and files exist, and the runs that it names were trained by a command of the page."""
    monkeypatch.chdir(folder)
    program, name, *args = shlex.split(command)
    assert program == "plasticity-rl"
    if "--trainer.callbacks.help=" in command:
        assert call(name, *args).code == 0
    elif name == "fit":
        assert printed_config(*args)["max_frames"] > 0
    elif name == "plot":
        runs = [str(run) for run in plot.parser().parse_args(args).runs]
        assert [run for run in runs if run not in RUNS and not run.startswith(STUDY)] == []
    elif name == "probe":
        assert [run for run in probe.parse(args).checkpoints if str(Path(run).parents[1]) not in RUNS] == []
    elif args[:1] == ["run"]:
        result = call(name, *args, "--dry-run")
        assert result.code == 0, result.err
        assert result.out.count("plasticity-rl fit") >= 4
    else:
        result = call(name, "status", args[1])
        assert result.code == 0, result.err


def test_its_pictures_are_kept_and_small():
    sizes = {name: (tutorial.PAGE.with_suffix("") / name).stat().st_size for name in tutorial.pictures(PAGE)}
    assert len(sizes) >= 4
    assert [name for name, size in sizes.items() if size > 150_000] == []
    assert sorted(sizes) == sorted(path.name for path in tutorial.PAGE.with_suffix("").glob("*"))


def test_what_a_page_asks_for_is_read_in_order(tmp_path):
    page = '```yaml title="a.yaml"\nx: 1\n```\n\n```bash\necho "b c" \\\n  d  # said\ntrue\ncat a.yaml\n```\n'
    page += "\n```text\nold\n```\n"
    assert [step.file for step in tutorial.steps(page)] == ["a.yaml", None, None, None]
    assert [step.body for step in tutorial.steps(page)] == ["x: 1\n", "echo 'b c' d", "true", "cat a.yaml"]
    assert tutorial.do(page, tmp_path) == page.replace("old", "x: 1")
    with pytest.raises(SystemExit, match="exit code 3"):
        tutorial.do("```bash\nexit 3\n```\n", tmp_path)


def test_the_small_page_is_the_same_with_fewer_frames():
    small = tutorial.steps(tutorial.made_small(PAGE))
    assert len(small) == len(STEPS)
    for step in small:
        assert not re.search(r"max_frames:? (?!3000)\d", step.body)
        assert not step.body.startswith("plasticity-rl fit") or step.body.count("--max_frames 3000") == 1
