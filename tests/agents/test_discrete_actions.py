"""Whole-number actions from the policy to the batch, through an agent that has nothing but a Q network."""

from __future__ import annotations

import pytest
import torch
from helpers import fit_tiny, tiny_agent, weights_hash
from only_q import only_q

from plasticity_rl.errors import UserError

TASK = {"task": "tiny_discrete"}


def test_an_agent_with_discrete_actions_trains_and_goes_on_exactly(tmp_path):
    whole = fit_tiny(tmp_path / "whole", make_agent=only_q, data_options=TASK, max_frames=200)
    assert whole.data.num_actions == 3
    assert whole.data.action_dim == 1
    stored = whole.data.replay[:20]["action"]  # the seed phase
    assert stored.dtype == torch.int64
    assert sorted(stored.unique().tolist()) == [0, 1, 2]
    fit_tiny(tmp_path / "cut", make_agent=only_q, data_options=TASK, max_frames=100)
    resumed = fit_tiny(tmp_path / "cut", make_agent=only_q, data_options=TASK, max_frames=200, ckpt_path="last")
    assert weights_hash(resumed) == weights_hash(whole)


@pytest.mark.parametrize(
    ("make", "task", "says"),
    [
        (tiny_agent, "tiny_discrete", "3 discrete actions, and DrQV2 chooses continuous actions"),
        (lambda data, seed: only_q(data, seed, 3), "tiny", "continuous actions, and OnlyQ chooses 3 discrete actions"),
        (
            lambda data, seed: only_q(data, seed, 4),
            "tiny_discrete",
            "3 discrete actions, and OnlyQ chooses 4 discrete actions",
        ),
    ],
)
def test_actions_of_another_kind_are_refused_before_training(make, task, says, tmp_path):
    with pytest.raises(UserError, match=says):
        fit_tiny(tmp_path, make_agent=make, data_options={"task": task})
