"""Folders of runs from before the packages stay readable: what their ``config.yaml`` calls by name is found."""

from __future__ import annotations

import importlib

import pytest
import yaml
from cli_runs import call, fit_tiny_cli

from plasticity_rl.former_names import FORMER
from plasticity_rl.results.runs import read_run

NAMED_BY_RUNS = ["plasticity_rl.histograms.Histograms", "plasticity_rl.video.EvalVideo"]
"""What older revisions wrote into ``config.yaml``."""
TODAYS = ["plasticity_rl.Histograms", "plasticity_rl.EvalVideo"]


@pytest.mark.parametrize("class_path", FORMER.values())
def test_todays_names_exist(class_path):
    module, _, name = class_path.rpartition(".")
    assert isinstance(getattr(importlib.import_module(module), name), type)


def test_a_run_with_former_names_in_its_config_goes_on_and_is_read_back(tmp_path):
    fit_tiny_cli(tmp_path, *(f"--trainer.callbacks+={name}" for name in TODAYS), max_frames=100)
    path = tmp_path / "config.yaml"
    config = yaml.safe_load(path.read_text())
    assert [entry["class_path"] for entry in config["trainer"]["callbacks"]] == TODAYS
    for entry, former in zip(config["trainer"]["callbacks"], NAMED_BY_RUNS, strict=True):
        entry["class_path"] = former
    path.write_text(yaml.safe_dump(config))

    assert read_run(tmp_path).interventions == []
    result = call("fit", "--ckpt_path=last", f"--trainer.default_root_dir={tmp_path}", "--max_frames=200")
    assert result.code == 0, result.err
    assert call("validate", f"--ckpt_path={tmp_path / 'checkpoints' / 'last.ckpt'}").code == 0
