"""What README.md shows is true: its commands run, its YAML parses, its tables list what exists."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from cli_runs import (
    REPOSITORY,
    TINY,
    TINY_SAC,
    append_callbacks,
    call,
    callback_names,
    events,
    fit_tiny_cli,
    printed_config,
)
from helpers import tiny_agent, tiny_data

import callbacks
from plasticity_rl import Intervention
from plasticity_rl.__main__ import COMMANDS
from plasticity_rl.callback.charts import layout
from plasticity_rl.callback.documented import tag_pattern
from plasticity_rl.cli.early import read

pytestmark = pytest.mark.xdist_group("readme")  # its runs are made once
TEXT = (REPOSITORY / "README.md").read_text()
IGNORED = ("pip", "tensorboard", "git", "cd", "export", "sudo", "apt-get")
RUN_IN_README = "runs/mine"
OTHER_RUN = "runs/with_reset"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Return the shell commands, continued lines joined, comments and ``VAR=value`` in front removed."""
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    words = [re.split(r"\s#\s|^#", line)[0].strip() for line in lines]
    return [re.sub(r"^(\w+=\S+ +)+", "", command) for command in words if command]


def of_program(*names: str) -> list[str]:
    return [command for command in commands() if command.split()[0] in names]


def section(title: str) -> str:
    match = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert match, f"README.md has no section {title!r}"
    return match[1]


def first_column(title: str) -> list[str]:
    """Return what stands in backticks in the first column of a section's table."""
    rows = [line for line in section(title).splitlines() if line.startswith("|")][2:]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


# ---- commands --------------------------------------------------------------------------------------------------------


def test_every_command_is_checked_by_one_of_these_tests():
    known = ("plasticity-rl", "make", "python", *IGNORED)
    assert [command for command in commands() if command.split()[0] not in known] == []
    assert of_program("make")
    assert of_program("plasticity-rl")
    assert blocks("yaml")
    assert blocks("python")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the configs and the runs that the README continues, evaluates, measures and draws."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(REPOSITORY / "configs", folder / "configs")
    fit_tiny_cli(folder / RUN_IN_README, max_frames=100)
    entries = [("callbacks.Reset", {"modules": ["critic"], "at_frames": [50]}), ("callbacks.FractionActiveUnits", {})]
    fragment = append_callbacks(folder / "reset.yaml", entries)
    fit_tiny_cli(folder / OTHER_RUN, "--config", fragment, max_frames=100)
    return folder


@pytest.mark.parametrize("command", of_program("plasticity-rl"))
# On a CPU that emulates bfloat16, which this command is warned of.
@pytest.mark.filterwarnings("ignore:trainer.precision=bf16-mixed. this CPU has no instructions")
def test_a_command_runs(command, folder, tmp_path, monkeypatch):
    """In process, with the README's options first and a tiny env, tiny networks and few frames after them."""
    monkeypatch.chdir(folder)
    args = shlex.split(command)[1:]
    if args[0] == "fit" and "--ckpt_path" in args:
        args += ["--max_frames=200"]
    elif args[0] == "fit" and not any(arg.startswith("--trainer.callbacks.help") for arg in args):
        args = [re.sub(r"at_frames=\[\d+\]", "at_frames=[50]", arg) for arg in args]  # within the short run
        tiny = TINY_SAC if read(args).setting("agent") == "sac" else TINY
        args += [*tiny, "--max_frames=100", f"--trainer.default_root_dir={tmp_path}"]
    elif args[0] not in ("fit", "validate", "plot", "probe", "list", "init"):
        assert args[0] in COMMANDS
        args = [args[0], "--help"]
    result = call(*args)
    assert result.code == 0, result.err
    assert result.out


@pytest.mark.parametrize("command", of_program("make"))
def test_a_make_target_exists(command):
    process = subprocess.run(
        ["make", "-n", *shlex.split(command)[1:]], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout


def test_python_scripts_and_configs_and_pages_that_are_named_exist():
    """Paths in commands, in backticks and in links."""
    named = set(re.findall(r"(?:configs|examples|callbacks|plasticity_rl|tests|docs)/[\w/]+(?:\.\w+)+", TEXT))
    named |= {link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in link}
    assert named
    assert [path for path in sorted(named) if not (REPOSITORY / path).exists()] == []


# ---- code ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", blocks("yaml"))
def test_a_yaml_block_composes_with_the_quickstart(block, tmp_path):
    path = tmp_path / "block.yaml"
    path.write_text(block)
    base = ["--config", REPOSITORY / "configs" / "quickstart.yaml"]
    names = callback_names(printed_config(*base, "--config", path))
    assert names[1:] == re.findall(r"class_path: ((?:callbacks|lightning)\.\S+)", block)


@pytest.mark.parametrize("block", blocks("python"))
def test_a_python_block_compiles_and_imports_what_exists(block):
    compile(block, "README.md", "exec")
    imports = re.findall(r"^(?:from|import) .*$", block, re.MULTILINE)
    assert imports
    exec("\n".join(imports), {})


# ---- tables ----------------------------------------------------------------------------------------------------------


def test_the_callback_table_has_a_row_for_every_callback():
    assert sorted(first_column("Callbacks")) == sorted(callbacks.__all__)


def test_the_callback_table_points_to_fragments_of_the_same_callback():
    found = re.findall(r"^\| `(\w+)` .*`(configs/\S+\.yaml)`", section("Callbacks"), re.MULTILINE)
    assert len(found) == len(callbacks.__all__)
    for name, file in found:
        assert f"class_path: callbacks.{name}" in (REPOSITORY / file).read_text()


def compatible_groups() -> list[list[str]]:
    """Return all callbacks by name, in as few runs as their conflicts allow."""
    agent = tiny_agent(tiny_data(max_frames=200))
    examples = {
        name: getattr(callbacks, name)(**getattr(callbacks, name).example_arguments) for name in callbacks.__all__
    }
    groups: list[list[str]] = []

    def conflict(one: str, two: str) -> bool:
        pair = [examples[one], examples[two]]
        if not all(isinstance(callback, Intervention) for callback in pair):
            return False
        return any(a.conflict_with(agent, b) is not None for a, b in (pair, pair[::-1]))

    for name in callbacks.__all__:
        for group in groups:
            if not any(conflict(name, other) for other in group):
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


OTHERS: list[tuple[str, dict[str, object]]] = [
    ("plasticity_rl.Histograms", {"batch_size": 8}),
    ("callbacks.FeatureRank", {"batch_size": 20, "every_n_updates": 4, "divide": False}),
    ("callbacks.FractionActiveUnits", {"every_n_updates": 4, "definition": "mean_rate"}),
    ("callbacks.FractionActiveUnits", {"every_n_updates": 4, "definition": "mean_rate", "batch": "probe"}),
]
"""What writes tags that no example does."""


@pytest.fixture(scope="module")
def written_tags(tmp_path_factory) -> set[str]:
    """Every tag that short runs with all callbacks, and one of SAC, write."""
    folder, tags = tmp_path_factory.mktemp("tags"), set()
    for index, names in enumerate(compatible_groups()):
        entries = [(f"callbacks.{name}", dict(getattr(callbacks, name).example_arguments)) for name in names]
        entries += OTHERS if index == 0 else []
        fragment = append_callbacks(folder / f"{index}.yaml", entries)
        fit_tiny_cli(folder / str(index), "--config", fragment, "--model.replay_ratio=1", max_frames=120)
        tags |= _tags(folder / str(index))
    sac = [*TINY_SAC, "--data.overlap=true", "--max_frames=200", f"--trainer.default_root_dir={folder / 'sac'}"]
    result = call("fit", *sac)
    assert result.code == 0, result.err
    return tags | _tags(folder / "sac")


def _tags(run_dir: Path) -> set[str]:
    read = events(run_dir).Tags()
    written = {tag for kind in ("scalars", "images", "histograms") for tag in read[kind]}
    return written | {tag.removesuffix("/text_summary") for tag in read["tensors"]}


@pytest.mark.parametrize("tag", first_column("What is logged"))
def test_a_listed_tag_is_written(tag, written_tags):
    assert any(tag_pattern(tag).fullmatch(written) for written in written_tags), sorted(written_tags)


def test_every_written_tag_is_listed(written_tags):
    listed = [tag_pattern(tag) for tag in first_column("What is logged")]
    assert len(written_tags) > 20
    assert sorted(tag for tag in written_tags if not any(one.fullmatch(tag) for one in listed)) == []


def test_the_charts_that_are_listed_are_those_of_the_layout():
    every_probe = [getattr(callbacks, name)(**getattr(callbacks, name).example_arguments) for name in callbacks.__all__]
    for probe in every_probe:
        probe.resolve(tiny_agent(tiny_data()))
    assert first_column("Watch a run") == list(layout(every_probe))
