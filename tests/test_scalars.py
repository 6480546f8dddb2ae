"""Tags, and what is derived from others when they are logged."""

from __future__ import annotations

import pytest
import torch
from helpers import fit_tiny

from callbacks import L2Init, WeightDecay
from plasticity_rl.scalars import with_term_sums


def test_sums_of_terms_by_hand():
    """2 + 3 = 5 of the first name, 7 of the second; what is no term of a loss stays out."""
    scalars = {
        "intervention/l2_init/critic/loss": torch.tensor(2.0),
        "intervention/l2_init/actor/loss": torch.tensor(3.0),
        "intervention/infer/critic.Q1+critic.Q2/loss": torch.tensor(7.0),
        "loss/critic": torch.tensor(11.0),
        "intervention/weight_clipping/critic/clipped_fraction": torch.tensor(0.5),
        "random_target_fit/critic/encoder/loss": torch.tensor(13.0),
    }
    sums = with_term_sums(scalars)
    assert {tag: float(value) for tag, value in sums.items() if tag not in scalars} == {
        "intervention/l2_init/loss": 5.0,
        "intervention/infer/loss": 7.0,
    }
    assert {tag: sums[tag] for tag in scalars} == scalars


def test_a_run_logs_them(tmp_path):
    given = [L2Init(coefficient=0.1), L2Init(modules=["actor"], loss="actor"), WeightDecay(coefficient=0.1)]
    latest = fit_tiny(tmp_path, callbacks=given, max_frames=60, trainer_options={"log_every_n_steps": 1}).latest
    parts = [float(latest[f"intervention/l2_init/{name}/loss"]) for name in ("critic", "actor")]
    assert min(parts) > 0
    assert float(latest["intervention/l2_init/loss"]) == pytest.approx(sum(parts))
    assert float(latest["intervention/weight_decay/loss"]) == float(latest["intervention/weight_decay/critic/loss"]) > 0
