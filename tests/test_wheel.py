"""The wheel is whole: built, installed outside the checkout, and used from an empty folder with what travels in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from email.parser import Parser
from pathlib import Path

import pytest
import yaml
from cli_runs import REPOSITORY

pytest.importorskip("hatchling", reason="builds the wheel without network; of the extra dev")
pytest.importorskip("hatch_fancy_pypi_readme", reason="builds the wheel without network; of the extra dev")
TINY = [
    *("--max_frames=480", "--data.eval_every_n_frames=240", "--data.num_eval_episodes=1", "--data.capacity=500"),
    *("--data.batch_size=16", "--model.hidden_dim=64", "--model.num_seed_frames=240", "--trainer.accelerator=cpu"),
]
"""Cartpole from states: 60 env steps of 8 frames, half of them with updates."""


def ran(command: Sequence[str | Path], cwd: Path) -> str:
    """Run a command that knows nothing of the checkout, require success, and return what it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    process = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=1500
    )
    assert process.returncode == 0, (process.stdout[-2000:], process.stderr[-3000:])
    return process.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built as an index gets it: from the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    hatchling = [sys.executable, "-m", "hatchling", "build", "-d", folder]
    ran([*hatchling, "-t", "sdist"], REPOSITORY)
    (sdist,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(sdist, folder / "source")
    (source,) = (folder / "source").iterdir()
    ran([*hatchling, "-t", "wheel"], source)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """The interpreter of a new environment: the wheel is installed, its dependencies are those of the running one.

    Their folder is only added to the path: an editable install in it stays out of sight, as its own .pth is not read.
    """
    folder = tmp_path_factory.mktemp("environment")
    ran([sys.executable, "-m", "venv", folder], folder)
    python = folder / "bin" / "python"
    ran([python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", wheel], folder)
    site = Path(ran([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip())
    running = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "dependencies.pth").write_text("\n".join(running) + "\n")
    return python


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> Path:
    """An empty folder, in which the tests below run one after the other."""
    return tmp_path_factory.mktemp("empty")


@pytest.fixture
def plasticity_rl(python, empty):
    """Run the console script in the empty folder."""
    return lambda *args: ran([python.with_name("plasticity-rl"), *args], empty)


@pytest.fixture(scope="module")
def metadata(wheel) -> tuple[dict[str, list[str]], str]:
    """Fields of the wheel's metadata, and the text that an index page shows."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        message = Parser().parsestr(archive.read(name).decode("utf-8"))
    return {key: message.get_all(key, []) for key in message}, str(message.get_payload())


def test_it_holds_every_config_and_example_once(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    packaged = [name for name in names if name.startswith("plasticity_rl/_packaged/")]
    examples = [path for pattern in ("*.py", "*.ipynb") for path in (REPOSITORY / "examples").rglob(pattern)]
    files = [*(REPOSITORY / "configs").rglob("*.yaml"), *examples]
    assert sorted(packaged) == sorted(f"plasticity_rl/_packaged/{path.relative_to(REPOSITORY)}" for path in files)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"plasticity_rl", "callbacks"}
    web = [path for path in (REPOSITORY / "plasticity_rl" / "results" / "web").rglob("*") if path.is_file()]
    assert len(web) >= 6
    assert {str(path.relative_to(REPOSITORY)) for path in web} <= set(names), "pages carry them inside"


def test_it_says_what_it_is(metadata):
    fields, _ = metadata
    urls = dict(entry.split(", ") for entry in fields["Project-URL"])
    assert {"Homepage", "Repository", "Issues", "Changelog", "Paper"} <= urls.keys()
    assert len(fields["Classifier"]) >= 10
    assert fields["Keywords"]
    assert fields["License-File"] == ["LICENSE"]


def test_the_links_of_its_page_are_absolute_and_lead_to_files_of_the_repository(metadata):
    """Images too, which an index page takes from where the repository is served file by file."""
    fields, text = metadata
    assert fields["Description-Content-Type"] == ["text/markdown"]
    home = next(entry.partition(", ")[2] for entry in fields["Project-URL"] if entry.startswith("Homepage, "))
    files = home.replace("github.com", "raw.githubusercontent.com") + "/main/"
    images = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    pages = re.findall(r"(?<!!)\[[^\]]*\]\(([^)#][^)]*)\)", text)  # anchors within the page aside
    assert images
    assert pages
    assert [link for link in (*images, *pages) if not link.startswith("https://")] == []
    assert [link for link in images if not (REPOSITORY / link.removeprefix(files)).is_file()] == []
    ours = [link.removeprefix(f"{home}/blob/main/").partition("#")[0] for link in pages if link.startswith(home)]
    assert ours
    assert [path for path in ours if not (REPOSITORY / path).is_file()] == []


def test_nothing_of_the_checkout_is_in_sight(python, empty):
    code = "import importlib.util as u; print(*(u.find_spec(name).origin for name in ('plasticity_rl', 'callbacks')))"
    files = ran([python, "-c", code], empty).split()
    assert [Path(file).is_relative_to(python.parents[1]) for file in files] == [True, True]


def test_list_and_init(plasticity_rl, empty):
    listed = plasticity_rl("list")
    assert re.search(r"^  quickstart +A first look ", listed, re.MULTILINE)
    assert re.search(r"^  callbacks\.Reset +Give modules", listed, re.MULTILINE)
    assert re.search(r"^  walker_run +walker: ", listed, re.MULTILINE)
    assert re.search(r"^  mini/replay_ratio +Replay ratios on 2 CPU cores", listed, re.MULTILINE)
    plasticity_rl("init", "copies")
    copy = (empty / "copies" / "configs" / "quickstart.yaml").read_text()
    assert copy == (REPOSITORY / "configs" / "quickstart.yaml").read_text()


def test_a_callback_of_ones_own_beside_the_run(plasticity_rl, empty):
    """A console script does not look into the current folder by itself, as `python -m` does."""
    (empty / "mine.py").write_text(
        "import lightning.pytorch as pl\n\n\nclass Mine(pl.Callback):\n"
        "    def on_fit_start(self, trainer, pl_module):\n        print('mine acts')\n"
    )
    files = ["--config", "mini_state", *TINY, "--trainer.default_root_dir=runs/own"]
    assert "mine acts" in plasticity_rl("fit", *files, "--trainer.callbacks+=mine.Mine")


@pytest.mark.slow  # CI does the same with what pip installs: .ci/wheel
def test_fit_study_and_plot(plasticity_rl, empty):
    """With packaged configs, by name, by path and as the base of a study of one's own."""
    files = ["--config", "mini_state", "--config", "configs/interventions/weight_decay.yaml"]
    plasticity_rl("fit", *files, *TINY, "--trainer.default_root_dir=runs/one")
    assert yaml.safe_load((empty / "runs" / "one" / "finished.yaml").read_text())["env_frames"] == 480
    study = {"base": ["configs/mini_state.yaml", *(option.removeprefix("--") for option in TINY[1:])]}
    study |= {"max_frames": 480, "tasks": ["cartpole_swingup"], "seeds": [1]}
    study |= {"factors": {"decay": {"some": ["configs/interventions/weight_decay.yaml"]}}}
    (empty / "tiny.yaml").write_text(yaml.safe_dump(study))
    assert "1/1" in plasticity_rl("study", "run", "tiny.yaml")
    assert "finished" in plasticity_rl("study", "status", "tiny.yaml")
    assert "--config configs/mini.yaml " in plasticity_rl("study", "run", "mini/replay_ratio", "--dry-run")
    plasticity_rl("plot", "runs/one", "--out", "figure.png")
    assert (empty / "figure.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_tutorial_runs_with_it(python, tmp_path):
    """All of docs/tutorial.md with fewer frames: minutes."""
    ran([python, REPOSITORY / "docs" / "tutorial.py", "--small", "--folder", tmp_path], tmp_path)
    assert (tmp_path / "report" / "index.html").is_file()
    assert len(list(tmp_path.glob("pictures/**/*.png"))) >= 4
