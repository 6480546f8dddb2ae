"""The distribution: two packages, one version, one direction of imports, and the commands the README promises."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from cli_runs import run_without_torch

import callbacks
import plasticity_rl
from plasticity_rl.__main__ import COMMANDS, HELP
from plasticity_rl.packaged import find_config

ROOT = Path(__file__).resolve().parents[1]
CORE = Path(plasticity_rl.__path__[0])


def imported_packages(source: str) -> set[str]:
    """Top-level names of everything a module imports, also inside functions and ``if TYPE_CHECKING`` blocks."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").partition(".")[0])
    return names


def test_callbacks_is_ours() -> None:
    # Another distribution on the package index installs a top-level `callbacks` too, and wins over an editable install.
    assert callbacks.__file__ is not None, "callbacks/__init__.py is missing"
    assert plasticity_rl.__file__ is not None, "plasticity_rl/__init__.py is missing"
    assert Path(callbacks.__file__).parents[1] == Path(plasticity_rl.__file__).parents[1]


def test_version_has_one_source() -> None:
    assert plasticity_rl.__version__ == metadata.version("plasticity-rl")


def test_console_script_points_at_main() -> None:
    (script,) = (e for e in metadata.distribution("plasticity-rl").entry_points if e.name == "plasticity-rl")
    assert script.value == "plasticity_rl.__main__:main"
    assert callable(script.load())


@pytest.mark.parametrize("package", [plasticity_rl, callbacks], ids=lambda package: package.__name__)
def test_package_says_it_is_typed(package: object) -> None:
    assert (Path(package.__path__[0]) / "py.typed").is_file()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import callbacks.probes as p", {"callbacks"}),
        ("from callbacks import ReDo", {"callbacks"}),
        ("def f():\n    from callbacks.probes import x", {"callbacks"}),
        ("from .callback import Probe", set()),
        ("from plasticity_rl.callback import Probe", {"plasticity_rl"}),
        ("from lightning.pytorch.callbacks import Timer", {"lightning"}),
    ],
)
def test_imported_packages_by_hand(source: str, expected: set[str]) -> None:
    assert imported_packages(source) == expected


def test_core_never_imports_callbacks() -> None:
    files = sorted(CORE.rglob("*.py"))
    assert files
    guilty = [file.name for file in files if "callbacks" in imported_packages(file.read_text("utf-8"))]
    assert not guilty, f"dependencies point callbacks -> plasticity_rl, but these import callbacks: {guilty}"


def test_every_subpackage_is_importable() -> None:
    # A folder without __init__.py works here by accident (namespace package) and confuses type checkers elsewhere.
    for top in (CORE, Path(callbacks.__path__[0])):
        folders = {file.parent for file in top.rglob("*.py")}
        missing = [str(folder.relative_to(top.parent)) for folder in folders if not (folder / "__init__.py").is_file()]
        assert not missing, f"no __init__.py in {missing}"


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("target", ["quickstart", "test"])
def test_readme_commands_are_make_targets(target: str) -> None:
    assert f"make {target}" in (ROOT / "README.md").read_text("utf-8")
    dry_run = subprocess.run(
        ["make", "-n", "--no-print-directory", target],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert dry_run.returncode == 0, dry_run.stderr
    last = dry_run.stdout.strip().splitlines()[-1]
    assert {"quickstart": "configs/quickstart.yaml", "test": "-m pytest"}[target] in last


# ---- light commands, metadata ----------------------------------------------------------------------------------------


def test_help_names_every_command_and_how_to_begin_anywhere() -> None:
    process = run_without_torch("--help")
    assert process.returncode == 0
    assert all(f"\n  {name} " in process.stdout for name in COMMANDS)
    assert "plasticity-rl fit --config quickstart " in process.stdout
    assert "plasticity-rl init my_study" in process.stdout


def test_commands_that_help_shows_name_configs_that_exist() -> None:
    """By a short name, which is found in any folder, or after ``init``."""
    named = re.findall(r"fit --config ([\w/.]+)", HELP)
    assert len(named) >= 3
    assert [name for name in named if find_config(name) is None] == []


def test_the_citation_is_that_of_this_project() -> None:
    """Valid CFF 1.2.0 has these four; the rest agrees with the package's metadata."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    meta = metadata.metadata("plasticity-rl")
    assert citation["license"] == "MIT"
    assert [author["name"] for author in citation["authors"]] == [meta["Author"]]
    assert citation["repository-code"] in (ROOT / "pyproject.toml").read_text("utf-8")
    assert "https://arxiv.org/abs/2310.07418" in [reference["url"] for reference in citation["references"]]
