"""What a program does once ``fit`` has returned, or with a Trainer that Lightning made."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from helpers import TINY_TRAINER, fit_tiny, tiny_agent, tiny_data, weights_hash

from plasticity_rl import DrQV2, RLDataModule, UserError, make_trainer


@pytest.fixture
def agent(tmp_path) -> Any:
    return fit_tiny(tmp_path / "run", max_frames=104)


def test_a_checkpoint_saved_after_fit_goes_on_as_the_run_would(agent, tmp_path):
    for path in (tmp_path / "own.ckpt", tmp_path / "weights.ckpt"):
        agent.trainer.save_checkpoint(path, weights_only=path.name == "weights.ckpt")
    agent.trainer.validate(agent, agent.data, verbose=False)
    agent.trainer.save_checkpoint(tmp_path / "validated.ckpt")
    agent.data.max_frames = 200
    trainer = make_trainer(tmp_path / "run", **TINY_TRAINER)
    trainer.fit(agent, agent.data, ckpt_path=tmp_path / "own.ckpt")
    assert agent.env_frames == 200
    assert weights_hash(agent) == weights_hash(fit_tiny(tmp_path / "whole", max_frames=200))
    assert DrQV2.load_from_checkpoint(tmp_path / "weights.ckpt").env_frames == 104


def test_a_second_fit_goes_on_with_ckpt_path_and_is_refused_without(agent):
    agent.data.max_frames = 120
    with pytest.raises(UserError, match=r"already holds a run: continue it with fit\(\.\.\., ckpt_path='last'\)"):
        agent.trainer.fit(agent, agent.data)
    agent.trainer.fit(agent, agent.data, ckpt_path="last")
    assert agent.env_frames == 120


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))], ids=["copy", "pickle"])
def test_agents_and_data_modules_can_be_copied(agent, tmp_path, copied):
    data, twin = copied(agent.data), copied(agent)
    observation = torch.zeros(1, *data.obs_shape, dtype=torch.uint8)
    assert torch.equal(twin.act(observation, explore=False), agent.act(observation, explore=False))
    assert weights_hash(twin) == weights_hash(agent)
    data.max_frames = 120
    make_trainer(tmp_path / "copy", **TINY_TRAINER).fit(twin, data)
    assert (twin.env_frames, agent.env_frames) == (120, 104)


def test_a_data_module_is_not_loaded_from_a_checkpoint(tmp_path):
    with pytest.raises(UserError, match=r"RLDataModule\.load_from_checkpoint: .* is made from its options"):
        RLDataModule.load_from_checkpoint(tmp_path / "any.ckpt")


# ---- lightning.Trainer -----------------------------------------------------------------------------------------------


def fit_plain(folder: Path, **options: Any) -> Any:
    pl.seed_everything(1, verbose=False)
    data = tiny_data(max_frames=104, seed=1)
    agent = tiny_agent(data, seed=1)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    pl.Trainer(default_root_dir=folder, **quiet, **options).fit(agent, data)
    return agent


def test_lightnings_own_trainer_trains_the_same(tmp_path):
    plain, ours = fit_plain(tmp_path / "plain"), fit_tiny(tmp_path / "ours", max_frames=104)
    assert plain.eval_returns == ours.eval_returns, "no sanity check, which would play the untrained agent twice"
    assert weights_hash(plain) == weights_hash(ours)
    assert list((tmp_path / "plain").rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("max_steps", 20), ("max_epochs", 2), ("limit_val_batches", 0), ("limit_train_batches", 3)),
        *(("overfit_batches", 1), ("gradient_clip_val", 1.0), ("val_check_interval", 7)),
    ],
)
def test_lightnings_own_trainer_is_refused_the_same_options_in_the_same_words(name, value, tmp_path):
    with pytest.raises(UserError, match=rf"^{name}={value}") as ours:
        make_trainer(tmp_path, **TINY_TRAINER, **{name: value})
    with pytest.raises(UserError) as theirs:
        fit_plain(tmp_path, **{name: value})
    assert str(theirs.value) == str(ours.value)
