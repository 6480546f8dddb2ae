"""The laws that every intervention and probe keeps, generated from ``callbacks.__all__``.

A callback that is exported tomorrow is covered tomorrow: the suite needs only its ``example_arguments`` (with which it
acts within a few updates) and, of an intervention, its ``inert_arguments``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import pytest
from callback_examples import EXPORTED, INTERVENTIONS, PROBES, example, names
from helpers import TINY_TRAINER, fit_tiny, tiny_data
from law_spies import ActLate, assert_touched_what_was_declared, assert_what_is_fresh_learns
from run_state import (
    DieAt,
    Killed,
    Log,
    Watcher,
    differences,
    hooks_of,
    parameter_identities,
    run_state,
)
from tiny_agent import TinyAgent

import callbacks
from plasticity_rl import UserError, make_trainer
from plasticity_rl.callback import ActsAtEvents, RLCallback
from plasticity_rl.callback.declarations import FAMILIES
from plasticity_rl.run.video import EvalVideo


@pytest.fixture(scope="module")
def baseline(tmp_path_factory) -> dict[str, Any]:
    """The run without any callback."""
    watcher = Watcher()
    agent = fit_tiny(tmp_path_factory.mktemp("baseline"), callbacks=[watcher])
    assert agent.num_updates >= 30
    return {"state": run_state(agent), "latest": agent.latest, "modes": watcher.modes_in_training}


def test_everything_is_exported_and_of_one_kind():
    defined = {cls.__name__ for cls in _subclasses(RLCallback) if cls.__module__.startswith("callbacks.")}
    assert defined == set(callbacks.__all__)
    assert set(EXPORTED) == {*PROBES, *INTERVENTIONS}
    assert all(cls.family in FAMILIES for cls in INTERVENTIONS)


def _subclasses(cls: type) -> set[type]:
    return {sub for child in cls.__subclasses__() for sub in {child, *_subclasses(child)}}


@pytest.mark.parametrize("cls", EXPORTED, ids=names(EXPORTED))
def test_arguments_are_plain_data_under_their_own_names(cls):
    """So that two instances get two state keys, and a YAML line can be read back from an instance."""
    callback = example(cls)
    arguments = callback.arguments()
    assert {k: list(v) if isinstance(v, (list, tuple)) else v for k, v in arguments.items()}.items() >= {
        k: list(v) if isinstance(v, (list, tuple)) else v for k, v in cls.example_arguments.items()
    }.items()
    assert cls(**arguments).state_key == callback.state_key
    assert "object at 0x" not in callback.state_key


# ------------------------------------------------------------------------------------- law 1: a probe only watches


@pytest.mark.parametrize("classes", [*([cls] for cls in PROBES), PROBES], ids=[*names(PROBES), "all"])
def test_law_1_a_probe_only_watches(classes, baseline, tmp_path):
    watcher = Watcher()
    agent = fit_tiny(tmp_path, callbacks=[*map(example, classes), watcher])
    state = run_state(agent)
    # A probe may have a generator of its own; it may neither draw from another one nor leave a trace in it.
    state["generators"] = {k: v for k, v in state["generators"].items() if not k.startswith("probe/")}
    assert differences(baseline["state"], state) == []
    assert watcher.modes_in_training == baseline["modes"]
    assert watcher.hooks_between_updates == hooks_of(agent) == {}
    measured = agent.latest.keys() - baseline["latest"].keys()
    assert measured, "the example arguments must make it measure within a few updates"


# ------------------------------------------------------- law 2: an intervention that never fires changes nothing


@pytest.mark.parametrize("cls", INTERVENTIONS, ids=names(INTERVENTIONS))
def test_law_2_an_inert_intervention_changes_nothing(cls, baseline, tmp_path):
    if cls.inert_arguments is None:
        by_nature = cls.family in ("architecture", "optimizer")
        assert by_nature, "only what acts by nature at the start may have no inert arguments"
        return
    agent = fit_tiny(tmp_path, callbacks=[cls(**cls.inert_arguments)])
    assert differences(baseline["state"], run_state(agent)) == []


@pytest.mark.parametrize("cls", INTERVENTIONS, ids=names(INTERVENTIONS))
def test_the_example_of_an_intervention_acts(cls, baseline, tmp_path):
    """Without this, the laws below would hold for a callback that never does anything."""
    agent = fit_tiny(tmp_path, callbacks=[example(cls)])
    assert differences(baseline["state"]["weights"], run_state(agent)["weights"]) != []


# ------------------------------------------- laws 3 and 4: it touches what it declares, in tensors that stay the same


@pytest.mark.parametrize("cls", INTERVENTIONS, ids=names(INTERVENTIONS))
def test_laws_3_and_4_an_act_touches_what_it_declares(cls, tmp_path):
    watcher, spied = Watcher(), example(cls)
    spy = ActLate(spied)
    agent = fit_tiny(tmp_path, callbacks=[spied, spy, watcher])

    assert watcher.identities == parameter_identities(agent)
    assert list(watcher.initial) == [name for name, _ in agent.named_parameters()]
    assert watcher.hooks_between_updates == hooks_of(agent) == {}
    if isinstance(spied, ActsAtEvents):
        assert spy.acts, "the example's event changed nothing"
    assert_touched_what_was_declared(spy)


@pytest.mark.parametrize("cls", INTERVENTIONS, ids=names(INTERVENTIONS))
def test_law_3_what_is_reinitialised_starts_from_nothing_and_learns(cls, tmp_path):
    spied = example(cls)
    spy = ActLate(spied)
    agent = fit_tiny(tmp_path, callbacks=[spied, spy])
    assert_what_is_fresh_learns(spy, agent)


def test_law_8_another_seed_gives_another_run(baseline, tmp_path):
    other = run_state(fit_tiny(tmp_path, seed=2))
    assert all(differences(baseline["state"][part], other[part]) for part in ("weights", "replay", "optimizers"))


# ---------------------------------------------------------------------------------------- an agent of another kind


def fit_other(folder, *, callbacks: Sequence[RLCallback] = (), ckpt_path: str | None = None, max_frames: int = 150):
    pl.seed_everything(1, verbose=False)
    data = tiny_data(max_frames=max_frames, seed=1, eval_every_n_frames=60)
    agent = TinyAgent(data.obs_shape, data.action_dim, seed=1)
    film = EvalVideo(every_n_evals=0)
    make_trainer(folder, callbacks=[*callbacks, film], **TINY_TRAINER).fit(agent, data, ckpt_path=ckpt_path)
    return agent


OTHER: dict[str, dict[str, Any]] = {
    "FractionActiveUnits": {"modules": ["torso", "policy", "value"], "every_n_updates": 3},
    "Reset": {"modules": ["policy", "value"], "every_n_frames": 50},
    "L2Init": {"modules": ["torso", "value"], "loss": "td"},
    "ToggleAugmentation": {"at_frame": 60, "on": False},
}


def others() -> list[RLCallback]:
    return [getattr(callbacks, name)(**arguments) for name, arguments in OTHER.items()]


def test_other_agent_runs_everything_and_resumes_exactly(tmp_path, monkeypatch):
    log = Log(monkeypatch)
    expected = run_state(fit_other(tmp_path / "straight", callbacks=others())), log.take()
    tags = {tag for _, tag, _ in expected[1][0]}
    assert tags >= {"fau/torso", "fau/policy", "fau/value", "fau/torso/2", "fau/policy/1"}
    assert "intervention/l2_init/torso+value/loss" not in tags, "this agent does not log its loss terms"
    assert {name for _, name, _ in expected[1][1]} == {"reset", "toggle_augmentation"}
    with pytest.raises(Killed):
        fit_other(tmp_path / "resumed", callbacks=[*others(), DieAt(100)])
    before = log.take(until=60)
    resumed = fit_other(tmp_path / "resumed", callbacks=others(), ckpt_path="last")
    after = log.take()
    assert differences(expected[0], run_state(resumed)) == []
    assert expected[1] == (before[0] + after[0], before[1] + after[1])


@pytest.mark.parametrize("name", ["Reset", "ToggleAugmentation"])
def test_other_agent_is_touched_where_declared(name, tmp_path):
    spied = getattr(callbacks, name)(**OTHER[name])
    spy = ActLate(spied)
    agent = fit_other(tmp_path, callbacks=[spied, spy])
    assert len(spy.acts) == {"Reset": 2, "ToggleAugmentation": 1}[name]
    for changed in spy.acts:
        assert changed.pop("parameters") <= spy.mutation.parameters
        assert changed.pop("slots") <= spy.mutation.optimizer_slots
        assert changed.pop("attributes") <= spy.mutation.attributes
        assert changed == {part: set() for part in changed}
    if name == "Reset":
        wanted = {n for n, _ in agent.named_parameters() if n.split(".")[0] in ("policy", "value", "old_value")}
        assert spy.mutation.parameters == wanted
        assert {n for n in spy.fresh if n.startswith("policy")} <= spy.mutation.optimizer_slots
        assert spy.stale == set()
        assert all(seen["changed"] for seen in spy.after_update.values())


def test_other_agent_is_pulled_towards_its_first_weights(tmp_path):
    distance = []
    for coefficient in (0.0, 10.0):
        watcher = Watcher()
        regularizer = callbacks.L2Init(coefficient=coefficient, modules=["value", "torso"], loss="td")
        agent = fit_other(tmp_path / str(coefficient), callbacks=[regularizer, watcher])
        distance.append(
            sum(
                float((p.detach() - watcher.initial[name]).square().sum())
                for name, p in agent.named_parameters()
                if name.split(".")[0] in ("value", "torso")
            )
        )
    assert 0 < distance[1] < 0.5 * distance[0]


def test_other_agent_refuses_names_of_drqv2(tmp_path):
    with pytest.raises(UserError, match="no module 'critic' in TinyAgent; there are .*'torso'.*'policy'.*'value'"):
        fit_other(tmp_path, callbacks=[callbacks.Reset(modules=["critic"], at_frames=[50])])
