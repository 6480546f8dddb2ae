from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import fit_tiny
from lightning.pytorch.strategies import SingleDeviceStrategy
from pretend_gpu import pretend_gpu, trainer_options
from run_state import differences, run_state

from callbacks import AdaptiveReplayRatio, ReplayRatioSchedule
from plasticity_rl import UserError
from plasticity_rl.callback import Intervention, RLCallback


class FakeAgent:
    """Just what the callback asks of an agent, so that a recorded sequence of FAU can be played."""

    env_frames = 0
    replay_ratio = 0.5

    def __init__(self) -> None:
        self.events: list[str] = []
        self.data = SimpleNamespace(num_envs_of_all_ranks=1)
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


def test_after_a_resume_ranks_average_what_is_on_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL refuses a tensor of the CPU, and a check in env steps may come before an update has moved the sum.

    Checks are due at env steps 17, 34, 51. The run stops at 50, after 15 updates (one in two of the 30 env steps past
    the seed phase); the next update is due at 52.
    """
    reduced: list[tuple[str, str]] = []
    reduce = SingleDeviceStrategy.reduce

    def noted(self: SingleDeviceStrategy, tensor: Any, *args: Any, **kwargs: Any) -> Any:
        reduced.append((kwargs.get("reduce_op", ""), str(getattr(tensor, "device", "a number"))))
        return reduce(self, tensor, *args, **kwargs)

    monkeypatch.setattr(SingleDeviceStrategy, "reduce", noted)
    for max_frames, ckpt_path in ((100, None), (104, "last")):
        callback = AdaptiveReplayRatio(high=0.5, every_n_env_steps=17, one_way=False)
        options = {"callbacks": [callback], "max_frames": max_frames, "ckpt_path": ckpt_path}
        with pretend_gpu():
            agent = fit_tiny(tmp_path, trainer_options=trainer_options(), **options)
    assert (agent.env_steps, agent.num_updates, callback._checks.seen) == (52, 16, 3)
    assert [device for op, device in reduced if op == "mean"] == ["cuda:0"] * 3, "the first update, and two checks"


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


def test_an_interval_in_updates_worked_out_by_hand() -> None:
    """Checks after updates 2, 4, 6: means .45, .35, .3505 against .50 (the first), .45, .35."""
    callback, agent, counter = AdaptiveReplayRatio(every_n_updates=2), FakeAgent(), RecordedCounter()
    callback._counter = counter  # type: ignore[assignment]
    ratios = []
    for agent.num_updates, counter.fau in enumerate([0.50, 0.40, 0.30, 0.40, 0.341, 0.360], 1):
        callback.on_update_start(agent)  # type: ignore[arg-type]
        callback.on_update_end(agent, None, None)  # type: ignore[arg-type]
        callback.on_env_step(agent, None)  # type: ignore[arg-type]
        if agent.num_updates % 3 == 0:
            callback.on_episode_end(agent, 0.0, 10)  # type: ignore[arg-type]
        ratios.append(agent.replay_ratio)
    assert ratios == [0.5] * 5 + [2.0]


def test_an_interval_in_env_steps_counts_those_of_the_seed_phase() -> None:
    """Checks after env steps 4, 8, 12 with no update in the first 4: means none, .45, .4505 against .50, .45."""
    callback, agent, counter = AdaptiveReplayRatio(every_n_env_steps=4), FakeAgent(), RecordedCounter()
    callback._counter = counter  # type: ignore[assignment]
    fau = {5: 0.50, 6: 0.40, 8: 0.40, 9: 0.440, 12: 0.461}
    switched_at = []
    for agent.env_steps in range(1, 13):
        callback.on_env_step(agent, None)  # type: ignore[arg-type]
        if agent.replay_ratio == 2.0:
            switched_at.append(agent.env_steps)
        if agent.env_steps in fau:
            counter.fau = fau[agent.env_steps]
            callback.on_update_start(agent)  # type: ignore[arg-type]
            callback.on_update_end(agent, None, None)  # type: ignore[arg-type]
    # The update of step 8 follows the check at 8, as all updates follow their env step: the window of the check at 12
    # holds the updates of steps 8 and 9, that of 8 those of 5 and 6. (.40 + .44) / 2 = .42 against .45: not settled.
    assert switched_at == []
    assert callback.previous == pytest.approx(0.42)


@pytest.mark.parametrize("interval", ["every_n_env_steps", "every_n_updates"])
def test_every_interval_goes_on_exactly(interval: str, tmp_path: Path) -> None:
    make = lambda: AdaptiveReplayRatio(high=1.0, threshold=0.02, one_way=False, **{interval: 7})  # noqa: E731
    whole, cut = make(), make()
    expected = fit_tiny(tmp_path / "whole", callbacks=[whole], max_frames=200)
    fit_tiny(tmp_path / "cut", callbacks=[make()], max_frames=100)
    resumed = fit_tiny(tmp_path / "cut", callbacks=[cut], max_frames=200, ckpt_path="last")
    assert differences(run_state(expected), run_state(resumed)) == []
    assert whole.state_dict() == cut.state_dict()
    assert expected.event_counts["adaptive_replay_ratio"] > 0, "nothing was tested"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"every_n_episodes": 2, "every_n_updates": 3}, "every_n_episodes=2 and every_n_updates=3 .* give one of them"),
        ({"every_n_env_steps": 0}, "every_n_env_steps=0 must be a whole number >= 1"),
        ({"every_n_updates": 2.5}, "every_n_updates=2.5 must be a whole number >= 1"),
        ({"every_n_updates": 2, "average_over": "episode"}, "average_over='episode' .* give every_n_episodes, or"),
    ],
)
def test_intervals_that_cannot_be_are_refused(arguments: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        AdaptiveReplayRatio(**arguments)


def test_intervals_that_are_left_out_are_the_published_one() -> None:
    assert AdaptiveReplayRatio().state_key == AdaptiveReplayRatio(every_n_episodes=50, average_over="episode").state_key
    assert AdaptiveReplayRatio(**AdaptiveReplayRatio(every_n_updates=9).arguments()).average_over == "window"


def test_a_difference_of_the_threshold_has_settled() -> None:
    callback = AdaptiveReplayRatio(threshold=0.25)
    callback.initial = callback.previous = 0.5
    assert [callback.settled(fau) for fau in (0.24, 0.25, 0.75, 0.76)] == [False, True, True, False]
