"""Law 5: stop anywhere, go on exactly; for every exported callback, see ``test_laws.py``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from agent_kinds import with_donors
from callback_examples import EXPORTED, example, examples, names, rescheduled
from helpers import fit_tiny
from run_state import (
    DieAt,
    Killed,
    Log,
    callback_states,
    differences,
    last_checkpoint,
    run_state,
)

import callbacks
from plasticity_rl import RLDataModule, RLModule
from plasticity_rl.callback import RLCallback
from plasticity_rl.data.evaluation import Episode

STOPS = {"data_options": {"eval_every_n_frames": 60, "capacity": 70}}
"""Checkpoints at frames 60, 120, 180: in mid-episode (40 frames), and the ring of 70 records is full before the end."""
END = 230
SESSIONS = [(90, 60), (200, 180), (None, float("inf"))]
"""Where each session of a run dies, and the checkpoint that the next one goes on from: what it logged later is lost."""


def in_sessions(
    folder, make_callbacks, log: Log, fit: Callable[..., Any] = fit_tiny, sessions=SESSIONS, **options: Any
) -> tuple[Any, list, list]:
    """Die, resume, and so on to the end; the log without lost sessions."""
    scalars, events = [], []
    for session, (die_at, checkpoint) in enumerate(sessions):
        given = make_callbacks()
        run = {"callbacks": given, "max_frames": END, "ckpt_path": "last" if session else None, **options}
        if die_at is None:
            agent = fit(folder, **run)
        else:
            with pytest.raises(Killed):
                fit(folder, **{**run, "callbacks": [*given, DieAt(die_at)]})
        logged = log.take(until=checkpoint)
        scalars += logged[0]
        events += logged[1]
    return (run_state(agent), callback_states(given)), scalars, events


def straight_run(
    folder, given: Sequence[RLCallback], log: Log, fit: Callable[..., Any] = fit_tiny, **options: Any
) -> tuple[Any, list, list]:
    """A run that never stops: what it ends with, and its log."""
    straight = fit(folder, **{"callbacks": given, "max_frames": END, **options})
    steps, replay = straight.data.collector.episode_steps, straight.data.replay
    assert 0 < steps.min() <= steps.max() < 20, "the run should end in mid-episode"
    assert (replay.written > replay.lane_length).all(), "the ring should be full"
    return (run_state(straight), callback_states(given)), *log.take()


def assert_resumed_equals(straight: tuple[Any, list, list], resumed: tuple[Any, list, list]) -> None:
    (expected, scalars, events), (found, resumed_scalars, resumed_events) = straight, resumed
    assert resumed_events == events
    assert differences(expected[0], found[0]) == []
    assert differences(expected[1], found[1]) == []
    assert resumed_scalars == scalars


def test_law_5_the_last_checkpoint_is_the_newest_also_when_returns_fall(tmp_path, monkeypatch):
    falling = itertools.count(0, -1)
    monkeypatch.setattr(RLDataModule, "evaluate", lambda *_: Episode(float(next(falling)), 1))
    agent = fit_tiny(tmp_path, max_frames=END, **STOPS)
    assert [value for _, value in agent.eval_returns] == [0, -1, -2, -3, -4]
    assert last_checkpoint(agent)["rl"]["env_frames"] == END


@pytest.mark.parametrize("cls", EXPORTED, ids=names(EXPORTED))
def test_law_5_resume_is_exact_after_an_early_event(cls, tmp_path, monkeypatch):
    log = Log(monkeypatch)
    straight = straight_run(tmp_path / "straight", [example(cls)], log, **STOPS)
    assert_resumed_equals(straight, in_sessions(tmp_path / "resumed", lambda: [example(cls)], log, **STOPS))


SPARING: dict[str, Any] = {"agent_options": {"replay_ratio": 0.25}}
"""An update costs most where everything is on: half as many, also once the ratio has adapted."""


def everything(frame: int | None = None) -> list[RLCallback]:
    """As many as go together, their events at ``frame`` where one is given."""
    chosen = [type(callback) for callback in examples()]
    given = [example(cls) if frame is None else rescheduled(cls, frame) for cls in chosen]
    sparing = callbacks.AdaptiveReplayRatio(**{**callbacks.AdaptiveReplayRatio.example_arguments, "high": 0.5})
    return [sparing if isinstance(callback, callbacks.AdaptiveReplayRatio) else callback for callback in given]


@pytest.fixture(scope="module")
def everything_on(tmp_path_factory) -> tuple[Any, list, list]:
    """The run that never stopped, for both storages: where the records lie changes nothing."""
    with pytest.MonkeyPatch.context() as patch:
        log = Log(patch)
        return straight_run(tmp_path_factory.mktemp("everything"), everything(60), log, **STOPS, **SPARING)


@pytest.mark.parametrize("storage", ["ram", "memmap"])
def test_law_5_resume_is_exact_with_everything_on(storage, everything_on, tmp_path, monkeypatch):
    """Events are due at frame 60, where the first session's checkpoint lies, and periodic ones every 50 frames."""
    options = {"data_options": {**STOPS["data_options"], "storage": storage}, **SPARING}
    resumed = in_sessions(tmp_path, lambda: everything(60), Log(monkeypatch), **options)
    assert_resumed_equals(everything_on, resumed)
    acted = {frame for frame, *_ in everything_on[2]}
    assert 64 in acted, "the first update after frame 60"
    assert max(acted) > 180


@pytest.mark.parametrize("name", ["dqn", "rainbow"])
def test_law_5_resume_is_exact_with_everything_on_games(name, tmp_path, monkeypatch):
    """In two sessions; Rainbow's replay is prioritized. Events are due at frame 60, where the checkpoint lies."""
    kind, log = with_donors(tmp_path / "donors", name)[name], Log(monkeypatch)
    run = {**STOPS, **SPARING, "fit": kind.fit, "max_frames": 152}
    straight = straight_run(tmp_path / "straight", kind.examples(60), log, **run)
    sessions = [SESSIONS[0], SESSIONS[-1]]
    resumed = in_sessions(tmp_path / "resumed", lambda: kind.examples(60), log, sessions=sessions, **run)
    assert_resumed_equals(straight, resumed)
    assert {60, 64} & {frame for frame, *_ in straight[2]}, "it acted there"
    assert max(frame for frame, *_ in straight[2]) > 90


def test_law_5_resume_is_exact_with_several_envs(tmp_path, monkeypatch):
    options = {"num_envs": 2, "eval_every_n_frames": 60}
    log = Log(monkeypatch)
    run = {"max_frames": 200, "data_options": options, **SPARING}
    straight = fit_tiny(tmp_path / "straight", callbacks=everything(), **run)
    expected = run_state(straight), log.take()
    with pytest.raises(Killed):
        fit_tiny(tmp_path / "resumed", callbacks=[*everything(), DieAt(150)], **run)
    before = log.take(until=120)
    resumed = fit_tiny(tmp_path / "resumed", callbacks=everything(), ckpt_path="last", **run)
    after = log.take()
    assert differences(expected[0], run_state(resumed)) == []
    assert expected[1] == (before[0] + after[0], before[1] + after[1])


def test_rows_before_the_first_update_after_a_resume_have_the_last_metrics(tmp_path, monkeypatch):
    """At replay ratio 0.25 three env steps in four make no update, and repeat what the last one found."""
    rows, write = [], RLModule.log_scalars

    def noted(agent, scalars):
        rows.extend((agent.env_frames, float(value)) for tag, value in scalars.items() if tag == "loss/critic")
        write(agent, scalars)

    monkeypatch.setattr(RLModule, "log_scalars", noted)
    options = {
        "data_options": {"eval_every_n_frames": 60},
        "agent_options": {"replay_ratio": 0.25},
        "trainer_options": {"log_every_n_steps": 1},
    }
    fit_tiny(tmp_path / "straight", max_frames=80, **options)
    straight = [row for row in rows if row[0] > 60]
    fit_tiny(tmp_path / "stopped", max_frames=60, **options)
    rows.clear()
    fit_tiny(tmp_path / "stopped", max_frames=80, ckpt_path="last", **options)
    assert rows == straight
    assert straight[0][0] == 62
