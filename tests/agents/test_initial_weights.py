"""A new run with the weights of a checkpoint: everything else is fresh."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from cli_runs import TINY, TINY_SAC, call, checkpoint, fit_tiny_cli
from helpers import TINY_TRAINER, fit_tiny, tiny_agent, tiny_data

import callbacks
import plasticity_rl
from plasticity_rl import UserError, make_trainer
from plasticity_rl.callback import RLCallback
from plasticity_rl.run.video import EvalVideo


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """A checkpoint of 200 frames without its run."""
    folder = tmp_path_factory.mktemp("source")
    fit_tiny_cli(folder / "run")
    return shutil.copy(folder / "run" / "checkpoints" / "last.ckpt", folder / "with {eval=return}.ckpt")


def test_a_run_of_another_task_begins_with_them_and_nothing_else(alone, tmp_path) -> None:
    short = ["--data.task=tiny_away", "--model.num_seed_frames=20"]
    fit_tiny_cli(tmp_path / "run", f"--init_weights={alone}", *short, max_frames=22)
    source, new = torch.load(alone, weights_only=True), checkpoint(tmp_path / "run")
    assert (source["rl"]["env_frames"], new["rl"]["env_frames"], new["rl"]["num_updates"]) == (200, 22, 0)
    assert all(torch.equal(new["state_dict"][name], value) for name, value in source["state_dict"].items())
    assert source["optimizer_states"][0]["state"]
    assert not new["optimizer_states"][0]["state"]
    assert new["run_options"]["options"]["init_weights"] == str(alone)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["init_weights"] == str(alone)

    resumed = call("fit", f"--config={tmp_path / 'run' / 'config.yaml'}", "--ckpt_path=last", "--max_frames=100")
    assert resumed.code == 0, resumed.err
    after = checkpoint(tmp_path / "run")
    assert after["rl"]["num_updates"] == 20
    assert after["run_options"]["options"]["init_weights"] == str(alone)
    assert "init_weights" not in resumed.out


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--model.hidden_dim=8"], r"of another shape: actor.policy.0.weight \(\[16, 8\] there, \[8, 8\] here\)"),
        (["--trainer.callbacks+=callbacks.LayerNorm"], "missing in it: encoder.convnet.0_norm.weight"),
        (TINY_SAC, "unknown here: encoder.convnet.0.weight, .* and [0-9]+ more"),
        (["--init_weights=nowhere.ckpt"], "--init_weights nowhere.ckpt: no such file"),
        (["--init_weights={config}"], "is not a checkpoint, or is damaged"),
        (["--ckpt_path={alone}"], "goes on with one that began with weights of its own: give one of them"),
    ],
)
def test_what_does_not_fit_is_named(options, expected, alone, tmp_path) -> None:
    (tmp_path / "config.yaml").write_text("model: {}\n")
    given = [option.format(alone=alone, config=tmp_path / "config.yaml") for option in options]
    base = [] if options is TINY_SAC else TINY
    folder = f"--trainer.default_root_dir={tmp_path / 'run'}"
    result = call("fit", *base, f"--init_weights={alone}", folder, *given, "--max_frames=100")
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    assert re.search(expected, result.err), result.err
    assert not (tmp_path / "run").exists()


def test_validate_has_none(alone) -> None:
    result = call("validate", f"--ckpt_path={alone}", f"--init_weights={alone}")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "--init_weights is for fit" in result.err


def test_in_python_with_callbacks_that_shape_the_network(tmp_path) -> None:
    """An anchor to the initial weights holds those of the checkpoint."""
    norm = {"callbacks": [callbacks.LayerNorm()], "max_frames": 100}
    source = fit_tiny(tmp_path / "source", **norm)

    class Begin(RLCallback):
        def on_train_start(self, trainer, pl_module) -> None:
            self.weights = {name: value.clone() for name, value in pl_module.state_dict().items()}

    begin, anchor = Begin(), callbacks.L2Init()
    given = [callbacks.LayerNorm(), anchor, begin, EvalVideo(every_n_evals=0)]
    data = tiny_data(max_frames=60, seed=1)
    agent = tiny_agent(data, seed=1)
    plasticity_rl.init_weights(agent, tmp_path / "source" / "checkpoints" / "last.ckpt", given)
    make_trainer(tmp_path / "run", callbacks=given, **TINY_TRAINER).fit(agent, data)
    expected = source.state_dict()
    assert all(torch.equal(begin.weights[name], value) for name, value in expected.items())
    assert all(torch.equal(anchor._initial[name], expected[name]) for name in anchor._initial)


def test_callbacks_that_would_build_over_the_weights_are_refused(alone, tmp_path) -> None:
    data = tiny_data(max_frames=60)
    agent = tiny_agent(data)
    plasticity_rl.init_weights(agent, alone)
    trainer = make_trainer(tmp_path, callbacks=[callbacks.LayerNorm()], **TINY_TRAINER)
    with pytest.raises(UserError, match="LayerNorm would build over the initial weights; give init_weights the"):
        trainer.fit(agent, data)
