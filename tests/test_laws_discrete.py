"""The laws of ``test_laws.py`` on agents with discrete actions, with every callback's own choice of modules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from agent_kinds import KINDS
from callback_examples import EXPORTED, INTERVENTIONS, PROBES, names
from law_spies import ActLate, assert_touched_what_was_declared
from run_state import Watcher, callback_states, differences, hooks_of, parameter_identities, run_state

import callbacks
from plasticity_rl import UserError
from plasticity_rl.callback import ActsAtEvents

OF_GAMES = pytest.mark.parametrize("kind", ["dqn", "rainbow"])
RUN: dict[str, Any] = {"max_frames": 120, "data_options": {"eval_every_n_frames": 60}}


@pytest.fixture(scope="module", autouse=True)
def donor(tmp_path_factory) -> Iterator[None]:
    """A run of the same actions that ``WarmStartReplay`` finds."""
    folder = tmp_path_factory.mktemp("donor")
    KINDS["dqn"].fit(folder, seed=9, max_frames=60, data_options={"eval_every_n_frames": 60})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks.WarmStartReplay, "example_arguments", {"path": str(folder)})
        yield


@pytest.fixture(scope="module")
def baselines(tmp_path_factory) -> dict[str, dict[str, Any]]:
    """The run without any callback, by kind."""
    found = {}
    for kind in ("dqn", "rainbow"):
        agent = KINDS[kind].fit(tmp_path_factory.mktemp(kind), **RUN)
        assert agent.num_updates >= 20
        found[kind] = {"state": run_state(agent), "latest": agent.latest}
    return found


def those(kind: str, classes: list) -> list:
    return [cls for cls in classes if cls.__name__ not in KINDS[kind].refused]


@OF_GAMES
@pytest.mark.parametrize("cls", PROBES, ids=names(PROBES))
def test_a_probe_measures_and_only_watches(cls, kind, baselines, tmp_path):
    if cls.__name__ in KINDS[kind].refused:
        return
    watcher = Watcher()
    agent = KINDS[kind].fit(tmp_path, callbacks=[KINDS[kind].example(cls), watcher], **RUN)
    state = run_state(agent)
    state["generators"] = {k: v for k, v in state["generators"].items() if not k.startswith("probe/")}
    state["checkpoint"]["rl"]["rng"] = baselines[kind]["state"]["checkpoint"]["rl"]["rng"]
    assert differences(baselines[kind]["state"], state) == []
    assert watcher.hooks_between_updates == hooks_of(agent) == {}
    assert agent.latest.keys() - baselines[kind]["latest"].keys(), "it measured nothing"


@OF_GAMES
@pytest.mark.parametrize("cls", INTERVENTIONS, ids=names(INTERVENTIONS))
def test_an_intervention_acts_and_touches_what_it_declares(cls, kind, baselines, tmp_path):
    if cls.__name__ in KINDS[kind].refused:
        return
    spied, watcher = KINDS[kind].example(cls), Watcher()
    spy = ActLate(spied)
    agent = KINDS[kind].fit(tmp_path, callbacks=[spied, spy, watcher], **RUN)
    assert watcher.identities == parameter_identities(agent)
    assert watcher.hooks_between_updates == hooks_of(agent) == {}
    assert differences(baselines[kind]["state"]["weights"], run_state(agent)["weights"]) != [], "it did nothing"
    if isinstance(spied, ActsAtEvents):
        assert spy.acts, "the example's event changed nothing"
    assert spy.stale == set(), "declared as re-initialised, but left as they were"
    assert_touched_what_was_declared(spy)


@pytest.mark.parametrize("cls", INTERVENTIONS, ids=names(INTERVENTIONS))
def test_an_intervention_goes_on_exactly(cls, tmp_path):
    kind = KINDS["dqn"]
    if cls.__name__ in kind.refused:
        return
    straight, cut = kind.example(cls), kind.example(cls)
    expected = kind.fit(tmp_path / "straight", callbacks=[straight], **RUN)
    kind.fit(tmp_path / "cut", callbacks=[kind.example(cls)], **{**RUN, "max_frames": 60})
    resumed = kind.fit(tmp_path / "cut", callbacks=[cut], ckpt_path="last", **RUN)
    assert differences(run_state(expected), run_state(resumed)) == []
    assert differences(callback_states([straight]), callback_states([cut])) == []


@OF_GAMES
def test_all_probes_together_go_on_exactly(kind, tmp_path):
    make = lambda: [KINDS[kind].example(cls) for cls in those(kind, PROBES)]  # noqa: E731
    expected = KINDS[kind].fit(tmp_path / "straight", callbacks=make(), **RUN)
    KINDS[kind].fit(tmp_path / "cut", callbacks=make(), **{**RUN, "max_frames": 60})
    resumed = KINDS[kind].fit(tmp_path / "cut", callbacks=make(), ckpt_path="last", **RUN)
    assert differences(run_state(expected), run_state(resumed)) == []


@OF_GAMES
@pytest.mark.parametrize("cls", INTERVENTIONS, ids=names(INTERVENTIONS))
def test_an_inert_intervention_changes_nothing(cls, kind, baselines, tmp_path):
    callback = KINDS[kind].inert(cls)
    if callback is None:
        return
    agent = KINDS[kind].fit(tmp_path, callbacks=[callback], **RUN)
    assert differences(baselines[kind]["state"], run_state(agent)) == []


@OF_GAMES
def test_what_cannot_work_is_refused_in_one_line_before_training(kind, tmp_path):
    for name, says in KINDS[kind].refused.items():
        cls = getattr(callbacks, name)
        with pytest.raises(UserError, match=says) as raised:
            KINDS[kind].fit(tmp_path / name, callbacks=[KINDS[kind].example(cls)], **RUN)
        assert "\n" not in str(raised.value)
    assert {cls.__name__ for cls in EXPORTED} >= KINDS[kind].refused.keys()
