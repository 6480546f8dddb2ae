"""Studies on the tiny environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from cli_runs import REPOSITORY, TINY


def tiny_study(folder: Path, factors: dict, **changes) -> Path:
    """A study on the tiny env with one seed."""
    (folder / "empty.yaml").write_text("{}")
    options = [option.removeprefix("--") for option in TINY if "data.task" not in option]
    content = {
        "folder": str(folder / "runs"),
        "base": [str(folder / "empty.yaml"), *options],
        "max_frames": 100,
        "tasks": ["tiny"],
        "seeds": [1],
        "factors": factors,
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**content, **changes}, sort_keys=False))
    return path


@pytest.fixture(autouse=True)
def tiny_env_can_be_imported(monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY / "tests" / "support"), str(REPOSITORY)]))
