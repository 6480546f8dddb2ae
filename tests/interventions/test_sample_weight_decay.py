"""SampleWeightDecay: the replay draws by age, and nothing else differs; the draws are tested with the replay."""

from __future__ import annotations

import pytest
import torch
from agent_kinds import KINDS
from helpers import fit_tiny

from callbacks import SampleWeightDecay
from plasticity_rl import UserError


def mean_age(agent, batches: int = 30) -> float:
    """Mean age of the first transitions of what ``sample`` draws, in env steps."""
    replay, ages = agent.data.replay, []
    for _ in range(batches):
        windows, _ = replay._windows.sample(replay._records, 64)
        lanes, numbers = replay._records.records_in(windows.frames[:, -1])
        ages.append((replay.written[lanes] - numbers).double().mean())
    return float(torch.stack(ages).mean())


@pytest.mark.parametrize("kind", ["drqv2", "sac", "dqn"])
def test_batches_are_younger(kind, tmp_path):
    ages = {}
    for name, given in (("uniform", []), ("by age", [SampleWeightDecay(decay_env_steps=30, floor=0.05)])):
        agent = KINDS[kind].fit(tmp_path / name, callbacks=given, max_frames=120)
        ages[name] = mean_age(agent)
    live = int(agent.data.replay.written.sum())
    weights = [max(0.05, 1 - age / 30) for age in range(1, live + 1)]
    expected = sum(age * weight for age, weight in enumerate(weights, start=1)) / sum(weights)
    assert ages["by age"] == pytest.approx(expected, rel=0.25), "but for the windows that are not complete"
    assert ages["by age"] < 0.75 * ages["uniform"]


def test_beside_a_prioritized_replay_it_is_refused(tmp_path):
    with pytest.raises(UserError, match="^SampleWeightDecay: prioritized=true draws batches by priority already"):
        KINDS["dqn"].fit(tmp_path, callbacks=[SampleWeightDecay()], data_options={"prioritized": True})


def test_two_of_them_are_refused(tmp_path):
    with pytest.raises(UserError, match="both weigh samples by age"):
        fit_tiny(tmp_path, callbacks=[SampleWeightDecay(), SampleWeightDecay(floor=0.2)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decay_env_steps": 0}, "SampleWeightDecay.decay_env_steps=0 must be a whole number >= 1"),
        ({"floor": 0.0}, r"SampleWeightDecay.floor=0.0 must be in \(0, 1\]"),
    ],
)
def test_bad_numbers_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        SampleWeightDecay(**arguments)
