"""The laws of ``test_laws.py`` on the other agents, with every callback's own choice of modules: SAC, DQN, Rainbow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from agent_kinds import KINDS, Kind, with_donors
from callback_examples import EXPORTED, INTERVENTIONS, PROBES, names
from law_spies import ActLate, assert_touched_what_was_declared, assert_what_is_fresh_learns
from run_state import Log, Watcher, callback_states, differences, hooks_of, parameter_identities, run_state

import callbacks
from plasticity_rl import UserError
from plasticity_rl.callback import ActsAtEvents, RLCallback

OTHERS = ["sac", "dqn", "rainbow"]
ON_ALL = pytest.mark.parametrize("kind", OTHERS)
RUN: dict[str, Any] = {"max_frames": 120, "data_options": {"eval_every_n_frames": 60}}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory) -> dict[str, Kind]:
    return with_donors(tmp_path_factory.mktemp("donors"))


@pytest.fixture(scope="module")
def baselines(tmp_path_factory) -> dict[str, dict[str, Any]]:
    """The run without any callback, by kind."""
    found = {}
    for kind in OTHERS:
        watcher = Watcher()
        agent = KINDS[kind].fit(tmp_path_factory.mktemp(kind), callbacks=[watcher], **RUN)
        assert agent.num_updates >= 20
        found[kind] = {"state": run_state(agent), "latest": agent.latest, "modes": watcher.modes_in_training}
    return found


def on_their_kinds(classes: list[type[RLCallback]]) -> pytest.MarkDecorator:
    """Every callback on every kind of agent that it can work on."""
    pairs = [
        pytest.param(cls, kind, id=f"{cls.__name__}-{kind}") for cls in classes for kind in OTHERS if fits(cls, kind)
    ]
    return pytest.mark.parametrize(("cls", "kind"), pairs)


def fits(cls: type[RLCallback], kind: str) -> bool:
    return cls.__name__ not in KINDS[kind].refused


def assert_only_watched(kind: str, probes: list[RLCallback], baselines: dict[str, Any], folder: Path) -> None:
    watcher, baseline = Watcher(), baselines[kind]
    agent = KINDS[kind].fit(folder, callbacks=[*probes, watcher], **RUN)
    state = run_state(agent)
    state["generators"] = {k: v for k, v in state["generators"].items() if not k.startswith("probe/")}
    state["checkpoint"]["rl"]["rng"] = baseline["state"]["checkpoint"]["rl"]["rng"]
    assert differences(baseline["state"], state) == []
    assert watcher.modes_in_training == baseline["modes"]
    assert watcher.hooks_between_updates == hooks_of(agent) == {}
    measured = {tag.partition("/")[0] for tag in agent.latest.keys() - baseline["latest"].keys()}
    for probe in probes:
        assert measured & {tag.partition("/")[0] for tag in probe.tags()}, f"{type(probe).__name__} measured nothing"


@ON_ALL
def test_law_1_all_probes_together_measure_and_only_watch(kind, baselines, tmp_path):
    assert_only_watched(kind, [KINDS[kind].example(cls) for cls in KINDS[kind].applicable(PROBES)], baselines, tmp_path)


@pytest.mark.parametrize("cls", KINDS["rainbow"].applicable(PROBES), ids=names(KINDS["rainbow"].applicable(PROBES)))
def test_law_1_a_probe_by_itself_only_watches(cls, baselines, tmp_path):
    """On the agent that has most to disturb: noise in its layers, priorities in its replay."""
    assert_only_watched("rainbow", [KINDS["rainbow"].example(cls)], baselines, tmp_path)


@ON_ALL
def test_law_2_all_inert_interventions_together_change_nothing(kind, baselines, tmp_path):
    groups = KINDS[kind].all_inert()
    assert sum(map(len, groups)) > 20
    for number, group in enumerate(groups):
        agent = KINDS[kind].fit(tmp_path / str(number), callbacks=group, **RUN)
        assert differences(baselines[kind]["state"], run_state(agent)) == []


@on_their_kinds(INTERVENTIONS)
def test_laws_3_and_4_an_intervention_acts_and_touches_what_it_declares(cls, kind, kinds, baselines, tmp_path):
    spied, watcher = kinds[kind].example(cls), Watcher()
    spy = ActLate(spied)
    agent = kinds[kind].fit(tmp_path, callbacks=[spied, spy, watcher], **RUN)
    assert watcher.identities == parameter_identities(agent)
    assert watcher.hooks_between_updates == hooks_of(agent) == {}
    assert differences(baselines[kind]["state"]["weights"], run_state(agent)["weights"]) != [], "it did nothing"
    if isinstance(spied, ActsAtEvents):
        assert spy.acts, "the example's event changed nothing"
    assert_touched_what_was_declared(spy)
    assert_what_is_fresh_learns(spy, agent)


@pytest.mark.parametrize("cls", INTERVENTIONS, ids=names(INTERVENTIONS))
def test_law_5_an_intervention_goes_on_exactly(cls, kinds, tmp_path):
    """On Rainbow, which has all that DQN has and more; on DQN what noisy layers cannot take."""
    kind = kinds["rainbow" if fits(cls, "rainbow") else "dqn"]
    if cls.__name__ in kind.refused:
        return
    straight, cut = kind.example(cls), kind.example(cls)
    expected = kind.fit(tmp_path / "straight", callbacks=[straight], **RUN)
    kind.fit(tmp_path / "cut", callbacks=[kind.example(cls)], **{**RUN, "max_frames": 60})
    resumed = kind.fit(tmp_path / "cut", callbacks=[cut], ckpt_path="last", **RUN)
    assert differences(run_state(expected), run_state(resumed)) == []
    assert differences(callback_states([straight]), callback_states([cut])) == []


@ON_ALL
def test_laws_7_and_8_all_of_them_in_either_order_are_the_same_run(kind, kinds, tmp_path, monkeypatch):
    log, found = Log(monkeypatch), []
    for order in (1, -1):
        given = kinds[kind].examples()[::order]
        agent = kinds[kind].fit(tmp_path / str(order), callbacks=given, agent_options={"replay_ratio": 0.25}, **RUN)
        scalars, events = log.take()
        found.append((run_state(agent), callback_states(given), sorted(scalars), events))
    assert found[0][3], "some of them acted"
    assert differences(*found) == []


@ON_ALL
def test_what_cannot_work_is_refused_in_one_line_before_training(kind, tmp_path):
    for name, says in KINDS[kind].refused.items():
        cls = getattr(callbacks, name)
        with pytest.raises(UserError, match=says) as raised:
            KINDS[kind].fit(tmp_path / name, callbacks=[KINDS[kind].example(cls)], **RUN)
        assert "\n" not in str(raised.value)
    assert {cls.__name__ for cls in EXPORTED} >= KINDS[kind].refused.keys()
