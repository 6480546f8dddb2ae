"""What a run writes of its options is what it was made of, also where that is null."""

from __future__ import annotations

import shutil

import yaml
from cli_runs import call, checkpoint, fit_tiny_cli

from plasticity_rl.checkpoint_files import CONFIGURATION

ANNEALED = ["--trainer.callbacks+=callbacks.AnnealHorizon", "--trainer.callbacks.first_n_step=null"]
"""A null whose default is another: 10."""


def annealed(content: dict) -> dict:
    (one,) = content["trainer"]["callbacks"]
    return one["init_args"]


def test_an_option_that_is_null_stays_null(tmp_path):
    """In the config, the checkpoint, a run that goes on, and a new run of the same config."""
    run = tmp_path / "run"
    fit_tiny_cli(run, *ANNEALED, max_frames=100)
    assert annealed(yaml.safe_load((run / "config.yaml").read_text()))["first_n_step"] is None
    assert annealed(checkpoint(run)[CONFIGURATION])["first_n_step"] is None

    (tmp_path / "alone").mkdir()
    shutil.copy(run / "checkpoints" / "last.ckpt", tmp_path / "alone")
    result = call("probe", tmp_path / "alone" / "last.ckpt", "--probes", "FeatureNorm")
    assert result.code == 0, result.err

    # The config behind the checkpoint: it does not say that there is none.
    result = call("fit", f"--ckpt_path={run}/checkpoints/last.ckpt", f"--config={run}/config.yaml", "--max_frames=200")
    assert result.code == 0, result.err
    assert checkpoint(run)["rl"]["env_frames"] == 200

    result = call("fit", f"--config={run}/config.yaml", f"--trainer.default_root_dir={tmp_path}/new")
    assert result.code == 0, result.err
    assert annealed(yaml.safe_load((tmp_path / "new" / "config.yaml").read_text()))["first_n_step"] is None
