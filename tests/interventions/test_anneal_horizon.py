"""AnnealHorizon: n and the discount by hand, in every batch of a run, after resets, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from agent_kinds import KINDS
from helpers import fit_tiny
from run_state import callback_states, differences, run_state

from callbacks import AnnealHorizon, ContinualTasks, Reset, ShrinkAndPerturb, TargetStatistics
from plasticity_rl import UserError
from plasticity_rl.callback import RLCallback
from plasticity_rl.schedules import geometric


class Batches(RLCallback):
    """Notes the discounts of every batch, folded over n, and what the replay says of itself."""

    def __init__(self) -> None:
        self.folded: list[set[float]] = []
        self.horizons: list[tuple[int, float]] = []

    def on_batch(self, agent, batch) -> None:
        self.folded.append(set(batch["discount"].flatten().tolist()))
        self.horizons.append(agent.data.horizon)


def slow_horizon(k: int, first: tuple[int, float], last: tuple[int, float], num: int) -> tuple[int, float]:
    """Of update k since the last reset, by powers instead of logarithms."""
    b = max(1 - k / num, 0.0)
    return round(first[0] ** b * last[0] ** (1 - b)), 1 - (1 - first[1]) ** b * (1 - last[1]) ** (1 - b)


def test_halfway_by_hand():
    """n: sqrt(10 * 3) = 5.48; discount: 1 - sqrt(0.03 * 0.003) = 0.990513."""
    assert geometric(10, 3, 0.5) == pytest.approx(math.sqrt(30))
    assert 1 - geometric(1 - 0.97, 1 - 0.997, 0.5) == pytest.approx(0.990513, abs=1e-6)
    assert [geometric(10, 3, progress) for progress in (0.0, 1.0, 7.5)] == [10, 3, 3]


@pytest.mark.parametrize("kind", ["drqv2", "sac", "dqn", "rainbow"])
def test_every_batch_has_the_horizon_of_its_update(kind, tmp_path):
    """Also right after the resets after updates 12 and 24, of which the second begins again before the end."""
    batches, resets = Batches(), Reset(modules=["critic"], every_n_updates=12)
    anneal = AnnealHorizon(first_n_step=6, first_discount=0.5, num_updates=10)
    data = {"n_step": 2, "discount": 0.95, "eval_every_n_frames": 240}
    agent = KINDS[kind].fit(tmp_path, callbacks=[anneal, resets, batches], max_frames=240, data_options=data)
    assert len(batches.horizons) == agent.num_updates > 30
    for update, (folded, found) in enumerate(zip(batches.folded, batches.horizons, strict=True)):
        expected = slow_horizon(update % 12, (6, 0.5), (2, 0.95), 10)
        assert found[0] == expected[0]
        assert found[1] == pytest.approx(expected[1])
        whole = found[1] ** found[0]
        assert all(math.isclose(x, whole, rel_tol=1e-5) or x == 0 for x in folded), "of n steps, or terminated"
    assert agent.latest["intervention/anneal_horizon/n_step"] == found[0]


def test_only_fresh_layers_of_the_values_begin_it_again(tmp_path):
    batches, anneal = Batches(), AnnealHorizon(first_n_step=6, first_discount=None, num_updates=5)
    others = [
        ShrinkAndPerturb(modules=["critic", "encoder"], every_n_updates=10),
        Reset(modules=["actor"], every_n_updates=7),
    ]
    fit_tiny(tmp_path, callbacks=[anneal, *others, batches])
    lengths = [n for n, _ in batches.horizons]
    assert lengths[:6] == [slow_horizon(k, (6, 0.0), (3, 0.0), 5)[0] for k in range(6)]
    assert set(lengths[5:]) == {3}
    assert {discount for _, discount in batches.horizons} == {0.99}


@pytest.mark.parametrize("kind", ["drqv2", "rainbow"])
def test_a_resumed_run_goes_on_exactly_in_the_middle_of_a_cycle(kind, tmp_path):
    def given() -> list:
        return [
            AnnealHorizon(first_n_step=6, first_discount=0.5, num_updates=30),
            Reset(modules=["critic"], every_n_updates=11),
            TargetStatistics(every_n_updates=4, batch_size=8),
        ]

    straight, cut = given(), given()
    options = {"data_options": {"eval_every_n_frames": 60, "n_step": 2}}
    expected = KINDS[kind].fit(tmp_path / "straight", callbacks=straight, max_frames=180, **options)
    KINDS[kind].fit(tmp_path / "cut", callbacks=given(), max_frames=120, **options)
    resumed = KINDS[kind].fit(tmp_path / "cut", callbacks=cut, max_frames=180, ckpt_path="last", **options)
    assert differences(run_state(expected), run_state(resumed)) == []
    assert differences(callback_states(straight), callback_states(cut)) == []
    again = {tag: value for tag, value in resumed.latest.items() if tag.startswith("target/")}
    assert {"target/td_error", "target/overestimation"} <= again.keys()
    assert differences(again, {tag: expected.latest[tag] for tag in again}) == []
    assert expected.data.horizon == resumed.data.horizon != (2, 0.99)


def test_returns_of_evaluations_are_discounted_as_the_values_are(tmp_path):
    """Discount 0 to the end: over-estimation is the value less the first reward of the episode."""
    anneal = AnnealHorizon(first_n_step=None, first_discount=0.0, num_updates=10**6)
    seen: list[tuple[float, float]] = []

    class Look(TargetStatistics):
        def on_evaluation(self, agent, episodes) -> None:
            super().on_evaluation(agent, episodes)
            first = torch.stack([episode.first_observation for episode in episodes])
            value = float(self._values(agent, first).mean().detach())
            seen.append((agent.latest["target/overestimation"], value - episodes[0].rewards[0]))

    fit_tiny(tmp_path, callbacks=[anneal, Look(every_n_updates=5, batch_size=8)])
    for found, expected in seen[1:]:
        assert found == pytest.approx(expected, abs=1e-3)


# -------------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("arguments", "data", "message"),
    [
        ({"first_n_step": 2}, {}, "first_n_step=2 must be a whole number >= 3, data.n_step"),
        ({"first_n_step": 21}, {}, "first_n_step=21 does not fit in an episode of tiny"),
        ({}, {"capacity": 25, "num_envs": 2}, r"capacity=25 must be at least 26: 2 .* 10 steps of AnnealHorizon.first"),
        ({}, {"discount": 1.0}, r"discount=1.0 must be in \[0, 1\): AnnealHorizon"),
        ({}, {"overlap": True}, "AnnealHorizon: .*overlap=true begins a batch before"),
    ],
)
def test_what_does_not_fit_the_data_is_refused(arguments, data, message, tmp_path):
    with pytest.raises(UserError, match=message):
        fit_tiny(tmp_path, callbacks=[AnnealHorizon(**arguments)], data_options=data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"first_n_step": 0}, "AnnealHorizon.first_n_step=0 must be a whole number >= 1"),
        ({"first_discount": 1.0}, r"AnnealHorizon.first_discount=1.0 must be in \[0, 1\)"),
        ({"num_updates": 0}, "AnnealHorizon.num_updates=0 must be a whole number >= 1"),
    ],
)
def test_bad_numbers_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        AnnealHorizon(**arguments)


def test_two_of_them_are_refused(tmp_path):
    with pytest.raises(UserError, match="both set n-step and discount"):
        fit_tiny(tmp_path, callbacks=[AnnealHorizon(), AnnealHorizon(num_updates=5)])


def test_a_reset_over_an_emptied_replay_waits_for_windows_of_the_long_return(tmp_path):
    """The update was due for the short ones, which are there; the long ones come with the next env steps."""
    given = [
        ContinualTasks(tasks=["tiny", "tiny_away"], every_n_frames=96, empty_replay=True),
        AnnealHorizon(first_n_step=5, first_discount=None, num_updates=5),
        Reset(modules=["critic"], at_task_switches=True),
        horizons := Horizons(),
    ]
    data = {"num_envs": 4, "n_step": 1, "eval_every_n_frames": 96}
    options = {"num_seed_frames": 16, "replay_ratio": 0.5}
    fit_tiny(tmp_path, callbacks=given, max_frames=192, data_options=data, agent_options=options)
    after = [n for frame, n in horizons.seen if frame > 96]
    assert after[0] == 1, "all that there is"
    assert max(after) > 1, "what is left of the annealing then"
    assert after[-1] == 1


class Horizons(RLCallback):
    """Remembers the n-step of every batch, with its frame."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def on_batch(self, agent, batch) -> None:
        self.seen.append((agent.env_frames, agent.data.horizon[0]))
