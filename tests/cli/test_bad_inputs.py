"""Every wrong input ends before training: exit code 2, one line that says what to do, and nothing touched on disk."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bad_inputs import FILES, LIMITS, RANGES, WORDS, Bad
from bad_runs import CALLBACKS, COMBINATIONS, FOLDERS, TRAINER
from cli_runs import REPOSITORY, TINY, TINY_SAC, call

TABLE: dict[str, Bad] = {}
for part in (WORDS, FILES, RANGES, LIMITS, COMBINATIONS, CALLBACKS, TRAINER, FOLDERS):
    assert not TABLE.keys() & part.keys()
    TABLE |= part
GPU = {"missing GPU": Bad(("fit", "--trainer.accelerator=gpu"), r"trainer\.accelerator.*gpu.*(cpu|auto)")}
if not torch.cuda.is_available():
    TABLE |= GPU


def contents(folder: Path) -> dict[str, str]:
    """Return every file with its digest, and every folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        found[str(path.relative_to(folder))] = digest
    return found


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working folder, with what may be in the way."""
    (tmp_path / "file").write_text("precious")
    (tmp_path / "text.ckpt").write_text("not a checkpoint\n")
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "starts.yaml").write_text("- started: before\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(bad: Bad, folder: Path) -> list[str]:
    """Return the whole command line, and write the config file."""
    args = [arg.replace("FOLDER", str(folder)) for arg in bad.args]
    if bad.base != "none":
        options = {"tiny": TINY, "sac": TINY_SAC}[bad.base]
        run = ["--max_frames=200", f"--trainer.default_root_dir={folder / 'run'}"]
        args = [args[0], *options, *run, *args[1:]]
    if bad.yaml is not None:
        content = bad.yaml if isinstance(bad.yaml, bytes) else bad.yaml.replace("FOLDER", str(folder)).encode()
        (folder / "config.yaml").write_bytes(content)
        if not any(arg.startswith("--config") for arg in args):
            args.append(f"--config={folder / 'config.yaml'}")
    return args


@pytest.mark.parametrize("bad", TABLE.values(), ids=TABLE)
def test_a_wrong_input_is_one_line_and_touches_nothing(bad, folder):
    args = command(bad, folder)
    before = contents(folder)
    result = call(*args)
    assert result.code == 2, result.out + result.err
    lines = result.err.strip().splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("error: ")
    assert "Traceback" not in result.out + result.err
    assert re.search(bad.says.replace("FOLDER", re.escape(str(folder))), lines[0]), lines[0]
    assert contents(folder) == before


# ---- as a process of its own -----------------------------------------------------------------------------------------

NO_DISPLAY = {"DISPLAY": "", "WAYLAND_DISPLAY": "", "PYOPENGL_PLATFORM": ""}
PROCESSES = {
    "unknown command": (["fti"], {}, r"no command 'fti'; there are fit, .*Did you mean fit\?"),
    "unknown backend": (
        ["fit"],
        {"MUJOCO_GL": "nonsense", **NO_DISPLAY},
        r"MUJOCO_GL=nonsense .*MUJOCO_GL=egl\|osmesa",
    ),
    "backend without display": (
        ["fit"],
        {"MUJOCO_GL": "glfw", **NO_DISPLAY},
        r"glfw.* display.*set MUJOCO_GL=egl\|osmesa",
    ),
    "broken file": (["fit", "--config=config.yaml"], {}, r"config\.yaml .*'n_step' twice"),
}


@pytest.mark.parametrize(("args", "environment", "says"), PROCESSES.values(), ids=PROCESSES)
def test_the_same_through_the_real_program(args, environment, says, folder):
    (folder / "config.yaml").write_text("data:\n  n_step: 3\n  n_step: 5\n")
    before = contents(folder)
    variables = {key: value for key, value in {**os.environ, **environment}.items() if value or key not in NO_DISPLAY}
    variables["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), *sys.path])
    command = [sys.executable, "-m", "plasticity_rl", *args]
    done = subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.strip().splitlines() if not line.endswith("...")]  # what is being loaded
    assert len(lines) == 1, done.stderr
    assert re.search(says, done.stderr), done.stderr
    assert contents(folder) == before


def test_the_table_is_long():
    assert len(TABLE) >= 80
