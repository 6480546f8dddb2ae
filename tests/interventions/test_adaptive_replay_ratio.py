from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import fit_tiny

from callbacks import AdaptiveReplayRatio, ReplayRatioSchedule
from plasticity_rl import UserError
from plasticity_rl.callback import Intervention, RLCallback


class FakeAgent:
    """Just what the callback asks of an agent, so that a recorded sequence of FAU can be played."""

    env_frames = 0
    replay_ratio = 0.5

    def __init__(self) -> None:
        self.events: list[str] = []
        self.data = SimpleNamespace(env_steps_per_tick=1)
        self.trainer = SimpleNamespace(strategy=SimpleNamespace(reduce=lambda value, reduce_op: value))

    def log_scalars(self, scalars: dict) -> None: ...

    def log_event(self, name: str, text: str) -> None:
        self.events.append(text)


class RecordedCounter:
    """Stands for the hooks: gives one recorded FAU (out of 1000 units) for each update that is measured."""

    def __init__(self) -> None:
        self.fau = 0.0

    def start(self, agent: object) -> None: ...

    def stop(self) -> dict:
        return {"critic": {"layer": (torch.tensor(round(self.fau * 1000)), 1000)}}


def play(callback: AdaptiveReplayRatio, episodes: list[list[float]]) -> list[tuple[int, float]]:
    """Feed one FAU per update, grouped by episode; return ``(episodes finished, replay ratio)`` at every change."""
    agent, counter = FakeAgent(), RecordedCounter()
    callback._counter = counter  # type: ignore[assignment]
    changes: list[tuple[int, float]] = []
    for number, values in enumerate(episodes, 1):
        for counter.fau in values:
            callback.on_update_start(agent)  # type: ignore[arg-type]
            callback.on_update_end(agent, None, None)  # type: ignore[arg-type]
        before = agent.replay_ratio
        callback.on_episode_end(agent, 0.0, 10)  # type: ignore[arg-type]
        if agent.replay_ratio != before:
            changes.append((number, agent.replay_ratio))
    return changes


def test_the_switch_of_a_recorded_sequence_worked_out_by_hand() -> None:
    # Checks after episodes 2, 4, 6, 8; each mean covers the last episode of its window only.
    # 2: mean(.40, .42) = .41  against the first update .50: .09  -> no
    # 4: mean(.45, .47) = .46  against .41: .05               -> no
    # 6: mean(.470, .471) = .4705 against .46: .0105           -> no (the .46 of episode 5 does not count)
    # 8: mean(.470, .472) = .4710 against .4705: .0005 <= .001 -> switch
    episodes = [
        [0.50, 0.1],
        [0.40, 0.42],
        [0.9],
        [0.45, 0.47],
        [0.46],
        [0.470, 0.471],
        [0.2],
        [0.470, 0.472],
        [0.1],
        [0.9],
    ]
    assert play(AdaptiveReplayRatio(every_n_episodes=2), episodes) == [(8, 2.0)]


def test_averaging_over_the_window_counts_every_episode() -> None:
    # 2: mean(.50, .10, .40, .42) = .355 against .50 -> no; 4: mean(.30, .41) = .355 -> switch
    assert play(
        AdaptiveReplayRatio(every_n_episodes=2, average_over="window"), [[0.5, 0.1], [0.4, 0.42], [0.3], [0.41]]
    ) == [(4, 2.0)]


def test_a_collapsed_critic_switches_as_published_and_not_with_the_guard() -> None:
    collapsed = [[0.5]] + [[0.02]] * 5
    # Check 1 compares the first update with itself and would switch at once, so the first window is two episodes long.
    assert play(AdaptiveReplayRatio(every_n_episodes=2), collapsed) == [(4, 2.0)]
    assert play(AdaptiveReplayRatio(every_n_episodes=2, min_recovery=0.5), collapsed) == []


def test_two_way_goes_back_when_the_units_move_again() -> None:
    episodes = [[0.5], [0.5], [0.5], [0.3], [0.3]]
    assert play(AdaptiveReplayRatio(every_n_episodes=1), episodes) == [(1, 2.0)]
    assert play(AdaptiveReplayRatio(every_n_episodes=1, one_way=False), episodes) == [(1, 2.0), (4, 0.5), (5, 2.0)]


def test_all_ranks_compare_with_the_same_first_value() -> None:
    """Another rank saw .60 where this one saw .50 at the first update, and .02 less from then on."""
    callback, agent, counter = AdaptiveReplayRatio(every_n_episodes=1), FakeAgent(), RecordedCounter()
    callback._counter = counter  # type: ignore[assignment]
    others = iter([0.60, 0.53])
    reduce = lambda value, reduce_op: (value + next(others)) / 2  # noqa: E731
    agent.trainer = SimpleNamespace(strategy=SimpleNamespace(reduce=reduce))
    for counter.fau in (0.50, 0.60):  # mean .55 over this rank's first episode
        callback.on_update_start(agent)  # type: ignore[arg-type]
        callback.on_update_end(agent, None, None)  # type: ignore[arg-type]
    assert callback.initial == pytest.approx(0.55)  # (.50 + .60) / 2
    callback.on_episode_end(agent, 0.0, 10)  # type: ignore[arg-type]
    assert callback.previous == pytest.approx(0.54)  # (.55 + .53) / 2: .01 from .55, so no switch; .04 from .50
    assert agent.replay_ratio == 0.5


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0, 4.0, 8.0, 1 / 3])
def test_any_ratio_is_exact(ratio: float, tmp_path: Path) -> None:
    # 100 env steps, 80 of them past the seed phase of 40 frames
    schedule = ReplayRatioSchedule(at_frames=[0], replay_ratios=[ratio])
    agent = fit_tiny(tmp_path, callbacks=[schedule], agent_options={"replay_ratio": ratio})
    assert agent.num_updates == int(80 * Fraction(ratio).limit_denominator(1000))


class Integral(RLCallback):
    """Adds up the replay ratio in force at every env step past the seed phase."""

    def __init__(self) -> None:
        self.total = Fraction(0)

    def on_env_step(self, agent, step) -> None:
        if agent.env_frames > agent.num_seed_frames:
            # The ratio of this step's credit: hooks of the step before have already changed it.
            self.total += Fraction(agent.replay_ratio).limit_denominator(1000)


@pytest.mark.parametrize(
    "callback",
    [
        AdaptiveReplayRatio(low=1 / 3, high=2.0, every_n_episodes=2, threshold=1.0),
        ReplayRatioSchedule(at_frames=[0, 100, 200], replay_ratios=[0.5, 8.0, 1 / 3]),
    ],
)
def test_updates_are_the_integral_of_the_replay_ratio(tmp_path: Path, callback: RLCallback) -> None:
    integral = Integral()
    agent = fit_tiny(tmp_path, max_frames=300, callbacks=[callback, integral])
    assert agent.num_updates == int(integral.total)
    assert agent.replay_ratio in (2.0, pytest.approx(1 / 3))


def test_a_run_starts_low_and_ends_high(tmp_path: Path) -> None:
    agent = fit_tiny(tmp_path, max_frames=200, callbacks=[AdaptiveReplayRatio(every_n_episodes=2, threshold=1.0)])
    assert agent.replay_ratio == 2.0


@pytest.mark.parametrize(
    "arguments",
    [
        {"low": 0.0},
        {"low": 1e-9},
        {"high": -1.0},
        {"high": float("inf")},
        {"every_n_episodes": 0},
        {"threshold": -0.1},
        {"threshold": float("nan")},
        {"min_recovery": 1.5},
        {"average_over": "day"},
    ],
)
def test_bad_arguments_are_refused(arguments: dict) -> None:
    with pytest.raises(UserError, match=next(iter(arguments))):
        AdaptiveReplayRatio(**arguments)


def test_two_that_set_the_replay_ratio_are_refused(tmp_path: Path) -> None:
    both = [AdaptiveReplayRatio(), ReplayRatioSchedule(at_frames=[0], replay_ratios=[1.0])]
    with pytest.raises(UserError, match="AdaptiveReplayRatio cannot run beside ReplayRatioSchedule"):
        fit_tiny(tmp_path, callbacks=both)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (AdaptiveReplayRatio(), AdaptiveReplayRatio(module="actor")),
        (
            ReplayRatioSchedule(at_frames=[0], replay_ratios=[1.0]),
            ReplayRatioSchedule(at_frames=[60], replay_ratios=[2.0]),
        ),
    ],
)
def test_two_of_one_kind_are_refused_as_well(one: Intervention, two: Intervention, tmp_path: Path) -> None:
    name = type(one).__name__
    with pytest.raises(UserError, match=f"^{name} cannot run beside {name}: both set the replay ratio$"):
        fit_tiny(tmp_path, callbacks=[one, two])


@pytest.mark.parametrize("ratio", [float("inf"), float("nan"), 1e-9])
def test_an_impossible_ratio_is_refused_before_training(ratio: float) -> None:
    with pytest.raises(UserError, match="ReplayRatioSchedule.replay_ratios: replay_ratio=.* must be > 0 and finite"):
        ReplayRatioSchedule(at_frames=[0, 100], replay_ratios=[0.5, ratio])


def test_a_schedule_needs_ascending_frames_and_positive_ratios() -> None:
    for frames, ratios in ([0, 10], [1.0]), ([10, 0], [1.0, 2.0]), ([0], [0.0]):
        with pytest.raises(UserError, match="ReplayRatioSchedule"):
            ReplayRatioSchedule(at_frames=frames, replay_ratios=ratios)


def test_it_switches_where_episodes_of_several_environments_end_together(tmp_path):
    """Two environments end episodes 3 and 4 at frame 160; what is averaged are the updates since 1 and 2 ended."""
    callback = AdaptiveReplayRatio(every_n_episodes=4, threshold=1.0)
    data = {"num_envs": 2, "eval_every_n_frames": 80}
    agent = fit_tiny(tmp_path, max_frames=164, callbacks=[callback], data_options=data)
    assert callback.switched
    assert agent.last_events == {"adaptive_replay_ratio": 160}
