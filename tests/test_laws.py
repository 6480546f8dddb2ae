"""The laws that every intervention and probe keeps, generated from ``callbacks.__all__``.

A callback that is exported tomorrow is covered tomorrow: the suite needs only its ``example_arguments`` (with which it
acts within a few updates) and, of an intervention, its ``inert_arguments``.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
import pytest
import torch
from callback_examples import EXPORTED, INTERVENTIONS, PROBES, compatible, example, examples, names
from helpers import TINY_TRAINER, fit_tiny, tiny_data
from run_state import (
    DieAt,
    Killed,
    Log,
    Watcher,
    callback_states,
    differences,
    fingerprint,
    hooks_of,
    last_checkpoint,
    optimizer_settings,
    optimizer_state,
    parameter_identities,
    replay_state,
    run_state,
    simple_attributes,
)
from tiny_agent import TinyAgent

import callbacks
from plasticity_rl import Intervention, RLDataModule, RLModule, ScheduledIntervention, UserError, make_trainer
from plasticity_rl.callback import ActsAtEvents, Mutation, RLCallback
from plasticity_rl.callback.declarations import FAMILIES
from plasticity_rl.data.evaluation import Episode
from plasticity_rl.rng import global_rng_state
from plasticity_rl.run.video import EvalVideo

QUICK_PAIRS = 60
"""Pairs of callbacks tried in the quick suite; beyond that number the rest of them are marked slow."""


def rescheduled(cls: type[RLCallback], frame: int) -> RLCallback:
    """The example with its event, if it has a single one, at ``frame``; a periodic one where that is possible."""
    arguments = dict(cls.example_arguments)
    if "at_frame" in arguments:
        arguments["at_frame"] = frame
    if "at_frames" in arguments:
        arguments["at_frames"] = [frame]
        if "every_n_frames" in inspect.signature(cls).parameters:
            arguments["every_n_frames"] = 50
    return cls(**arguments)


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
        assert cls.family == "architecture", "only what acts by nature at the start may have no inert arguments"
        return
    agent = fit_tiny(tmp_path, callbacks=[cls(**cls.inert_arguments)])
    assert differences(baseline["state"], run_state(agent)) == []


@pytest.mark.parametrize("cls", INTERVENTIONS, ids=names(INTERVENTIONS))
def test_the_example_of_an_intervention_acts(cls, baseline, tmp_path):
    """Without this, the laws below would hold for a callback that never does anything."""
    agent = fit_tiny(tmp_path, callbacks=[example(cls)])
    assert differences(baseline["state"]["weights"], run_state(agent)["weights"]) != []


# ------------------------------------------- laws 3 and 4: it touches what it declares, in tensors that stay the same


def all_of(agent: RLModule) -> dict[str, Any]:
    """What an event could touch."""
    return fingerprint(
        {
            "parameters": dict(agent.named_parameters()),
            "slots": optimizer_state(agent),
            "attributes": {**simple_attributes(agent), "replay": replay_state(agent)},
            "buffers": dict(agent.named_buffers()),
            "modes": {name: module.training for name, module in agent.named_modules()},
            "trainable": {name: p.requires_grad for name, p in agent.named_parameters()},
            "optimizer settings": optimizer_settings(agent),
            "hooks": hooks_of(agent),
            "run generators": {k: v for k, v in agent.rng.state_dict().items() if not k.startswith("intervention/")},
            "global generators": global_rng_state(),
            "identities": parameter_identities(agent),
        }
    )


class ActLate(RLCallback):
    """Keeps an intervention asleep until the networks have changed, then compares before and after each of its acts.

    Args:
        intervention: Its ``on_update_start`` is wrapped.
        from_update: First update before which it may act.
    """

    def __init__(self, intervention: Intervention, from_update: int = 10) -> None:
        self.intervention, self.from_update = intervention, from_update
        self.act = intervention.on_update_start
        intervention.on_update_start = self.watch_act
        self.acts: list[dict[str, set[str]]] = []
        self.mutation = Mutation()
        self.fresh: dict[str, torch.Tensor] = {}
        self.stale: set[str] = set()
        self.after_update: dict[str, dict[str, Any]] | None = None

    def watch_act(self, agent: RLModule) -> None:
        if agent.num_updates < self.from_update:
            return
        self.mutation = self.intervention.mutates(agent)
        before = all_of(agent)
        self.values = {name: p.detach().clone() for name, p in agent.named_parameters()}
        self.act(agent)
        after = all_of(agent)
        changed = {part: _changed(before[part], after[part]) for part in before}
        if any(changed.values()):
            self.acts.append(changed)

    def on_weights_jumped(self, agent, jump) -> None:
        ids = {id(jump.live[name]) for name in jump.renewed}
        for name, parameter in agent.named_parameters():
            if id(parameter) in ids:
                self.fresh[name] = parameter.detach().clone()
                if torch.equal(parameter, self.values[name]):
                    self.stale.add(name)

    def on_update_end(self, agent, batch, metrics) -> None:
        if self.acts and self.after_update is None:
            slots = optimizer_state(agent)
            self.after_update = {
                name: {
                    "changed": not torch.equal(parameter, self.fresh[name]),
                    "step": float(slots[name]["step"]) if "step" in slots.get(name, {}) else None,
                }
                for name, parameter in agent.named_parameters()
                if name in self.fresh
            }


def _changed(before: Any, after: Any) -> set[str]:
    if not isinstance(before, dict):
        return {"changed"} if before != after else set()
    return {key for key in {**before, **after} if before.get(key, "absent") != after.get(key, "absent")}


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
    for changed in spy.acts:
        assert changed.pop("parameters") <= spy.mutation.parameters
        assert changed.pop("slots") <= spy.mutation.optimizer_slots
        assert changed.pop("attributes") <= spy.mutation.attributes
        assert changed.pop("trainable") <= spy.mutation.trainable
        changed.pop("hooks", None)  # a measurement may hook one update; that none is left is asserted above
        assert changed == {part: set() for part in changed}


@pytest.mark.parametrize("cls", INTERVENTIONS, ids=names(INTERVENTIONS))
def test_law_3_what_is_reinitialised_starts_from_nothing_and_learns(cls, tmp_path):
    spied = example(cls)
    spy = ActLate(spied)
    agent = fit_tiny(tmp_path, callbacks=[spied, spy])
    assert spy.fresh.keys() <= spy.mutation.parameters
    if cls.family == "reset":
        assert spy.fresh, "a reset must tell the others through agent.reinitialized()"
    assert spy.stale == set(), "declared as re-initialised, but left as they were"
    spied_slots = spy.mutation.optimizer_slots
    for name, seen in (spy.after_update or {}).items():
        assert seen["changed"], f"{name} was not updated after its re-initialisation"
        assert seen["step"] == 1 or name not in spied_slots, f"{name} kept the step count of its optimizer"
    trained = {id(p) for o in agent.trainer.optimizers for group in o.param_groups for p in group["params"]}
    held = {name for name, p in agent.named_parameters() if id(p) in trained}
    assert spy.fresh.keys() & spy.mutation.optimizer_slots <= held


# ------------------------------------------------------------------------------ law 5: stop anywhere, go on exactly

STOPS = {"data_options": {"eval_every_n_frames": 60, "capacity": 70}}
"""Checkpoints at frames 60, 120, 180: in mid-episode (40 frames), and the ring of 70 records is full before the end."""
END = 230


def in_three_sessions(folder, make_callbacks, log: Log, **options: Any) -> tuple[Any, list, list]:
    """Die at frame 90, resume from 60, die at 200, resume from 180, run to the end; the log without lost sessions."""
    scalars, events = [], []
    for session, (die_at, checkpoint) in enumerate([(90, 60), (200, 180), (None, float("inf"))]):
        given = make_callbacks()
        run = {"callbacks": given, "max_frames": END, "ckpt_path": "last" if session else None, **options}
        if die_at is None:
            agent = fit_tiny(folder, **run)
        else:
            with pytest.raises(Killed):
                fit_tiny(folder, **{**run, "callbacks": [*given, DieAt(die_at)]})
        logged = log.take(until=checkpoint)
        scalars += logged[0]
        events += logged[1]
    return (run_state(agent), callback_states(given)), scalars, events


def straight_run(folder, given: Sequence[RLCallback], log: Log, **options: Any) -> tuple[Any, list, list]:
    """A run that never stops: what it ends with, and its log."""
    straight = fit_tiny(folder, callbacks=given, max_frames=END, **options)
    assert straight.data.collector.episode_steps.tolist() == [15], "the run should end in mid-episode"
    assert straight.data.replay.written.item() > 70
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
    assert_resumed_equals(straight, in_three_sessions(tmp_path / "resumed", lambda: [example(cls)], log, **STOPS))


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


@pytest.mark.xdist_group("everything on")
@pytest.mark.parametrize("storage", ["ram", "memmap"])
def test_law_5_resume_is_exact_with_everything_on(storage, everything_on, tmp_path, monkeypatch):
    """Events are due at frame 60, where the first session's checkpoint lies, and periodic ones every 50 frames."""
    options = {"data_options": {**STOPS["data_options"], "storage": storage}, **SPARING}
    resumed = in_three_sessions(tmp_path, lambda: everything(60), Log(monkeypatch), **options)
    assert_resumed_equals(everything_on, resumed)
    acted = {frame for frame, *_ in everything_on[2]}
    assert 64 in acted, "the first update after frame 60"
    assert max(acted) > 180


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


# --------------------------------------------------------------------------------------- law 7: callbacks compose

_ALL_PAIRS = sorted(
    itertools.combinations(EXPORTED, 2), key=lambda pair: hashlib.sha256(" ".join(names(pair)).encode()).digest()
)
PAIRS = [
    pytest.param(*pair, id="-".join(names(pair)), marks=[pytest.mark.slow] if i >= QUICK_PAIRS else [])
    for i, pair in enumerate(_ALL_PAIRS)
]
SHORT = {
    "max_frames": 110,
    "data_options": {"eval_every_n_frames": 110},
    "trainer_options": {"log_every_n_steps": 1},  # so that the metrics of every update are compared
}


PAIR = {
    "max_frames": 60,
    "data_options": {"eval_every_n_frames": 60},
    "agent_options": {"replay_ratio": 1},  # ten updates, from frame 42 on
    "trainer_options": {"log_every_n_steps": 1},
}


def run_in_order(folder, given: Sequence[RLCallback], log: Log, run: Mapping[str, Any] = SHORT) -> tuple[Any, ...]:
    agent = fit_tiny(folder, callbacks=given, **run)
    scalars, events = log.take()
    return run_state(agent), callback_states(given), sorted(scalars), events


@pytest.mark.parametrize(("one", "two"), PAIRS)
def test_law_7_pairs_compose_in_either_order(one, two, tmp_path, monkeypatch):
    if not compatible(one, two):
        with pytest.raises(UserError, match=r"\w+ cannot run beside \w+: .+") as error:
            fit_tiny(tmp_path, callbacks=[example(one), example(two)], **SHORT)
        assert {one.__name__, two.__name__} <= set(str(error.value).replace(":", " ").split())
        return
    log = Log(monkeypatch)
    both = _both(example(one), example(two))
    runs = [run_in_order(tmp_path / str(order), given, log, PAIR) for order, given in enumerate(both)]
    assert differences(*runs) == []


def _both(one: RLCallback, two: RLCallback) -> list[list[RLCallback]]:
    return [[one, two], [type(two)(**two.arguments()), type(one)(**one.arguments())]]


@pytest.fixture(scope="module")
def forward(tmp_path_factory) -> tuple[Any, ...]:
    """A run with everything on, for laws 7 and 8."""
    with pytest.MonkeyPatch.context() as patch:
        return run_in_order(tmp_path_factory.mktemp("forward"), examples(), Log(patch))


@pytest.mark.xdist_group("forward")
def test_law_7_all_of_them_compose_in_either_order(forward, tmp_path, monkeypatch):
    backward = run_in_order(tmp_path, examples()[::-1], Log(monkeypatch))
    assert differences(forward, backward) == []


@pytest.mark.parametrize(
    ("cls", "first", "second"),
    [
        ("Reset", {"modules": ["actor"], "every_n_frames": 30}, {"modules": ["critic"], "at_frames": [50, 60]}),
        ("Reset", {"modules": ["critic"], "at_frames": [50]}, {"modules": ["critic.Q1"], "at_frames": [50]}),
        ("L2Init", {"modules": ["critic"], "coefficient": 3}, {"modules": ["critic.Q1", "encoder"], "coefficient": 7}),
        ("L2Init", {"modules": ["critic"]}, {"modules": ["actor"], "loss": "actor"}),
        ("ToggleAugmentation", {"at_frame": 50, "on": False}, {"at_frame": 70, "on": True}),
        (
            "FractionActiveUnits",
            {"modules": ["actor"], "every_n_updates": 3},
            {"modules": ["critic"], "every_n_updates": 2},
        ),
    ],
)
def test_law_7_two_instances_of_one_class(cls, first, second, tmp_path, monkeypatch):
    log, cls = Log(monkeypatch), getattr(callbacks, cls)
    forward = run_in_order(tmp_path / "forward", [cls(**first), cls(**second)], log)
    backward = run_in_order(tmp_path / "backward", [cls(**second), cls(**first)], log)
    assert differences(forward, backward) == []
    assert len(forward[1]) == 2, "each instance has a state of its own"
    for number, arguments in enumerate((first, second)):
        alone = run_in_order(tmp_path / str(number), [cls(**arguments)], log)
        assert differences(alone[0], forward[0]) != [] or alone[2] != forward[2], "one of the two had no effect"


def test_law_7_the_sum_of_several_penalties_does_not_depend_on_their_order(tmp_path):
    """Floating-point addition is not associative: the agent must add the terms in an order of its own."""
    states = []
    for order in (1, -1):
        losses: list[float] = []

        class Losses(RLCallback):
            def on_update_end(self, agent, batch, metrics, losses=losses) -> None:
                losses.append(float(metrics["loss/critic"]))

        parts = {"critic": 3, "critic.Q1": 2, "critic.Q2": 7}
        given = [callbacks.L2Init(modules=[name], coefficient=value) for name, value in parts.items()]
        agent = fit_tiny(tmp_path / str(order), callbacks=[*given[::order], Losses()])
        states.append((run_state(agent)["weights"], losses))
    assert differences(*states) == []


def test_two_resets_each_keep_their_own_schedule(tmp_path, monkeypatch):
    log = Log(monkeypatch)
    actor = callbacks.Reset(modules=["actor"], every_n_frames=30)
    critic = callbacks.Reset(modules=["critic"], at_frames=[50, 60])
    run_in_order(tmp_path, [actor, critic], log)
    assert (actor.events.seen, critic.events.seen) == (3, 2)


@pytest.mark.parametrize("cls", EXPORTED, ids=names(EXPORTED))
def test_law_7_exact_doubles_are_refused(cls, tmp_path):
    with pytest.raises(UserError, match=f"{cls.__name__} is given twice with the same arguments") as error:
        fit_tiny(tmp_path, callbacks=[example(cls), example(cls)], **SHORT)
    assert "\n" not in str(error.value)


class Unsociable(ScheduledIntervention):
    """Cannot bear resets."""

    incompatible_with: ClassVar = {"Reset": "both move the same weights"}

    def act(self, agent) -> str:
        return "nothing"


@pytest.mark.parametrize("order", [1, -1])
def test_law_7_an_incompatible_pair_is_refused_by_name_before_training(order, tmp_path):
    watcher = Watcher()
    given = [Unsociable(at_frames=[50]), callbacks.Reset(at_frames=[50]), watcher][::order]
    with pytest.raises(UserError, match="^Unsociable cannot run beside Reset: both move the same weights$"):
        fit_tiny(tmp_path, callbacks=given, **SHORT)
    assert watcher.modes_in_training == []
    fit_tiny(tmp_path / "alone", callbacks=[Unsociable(at_frames=[50])], **SHORT)


# ---------------------------------------------------------------------------------------- law 8: same seed, same run


@pytest.mark.xdist_group("forward")
def test_law_8_same_seed_same_run(forward, tmp_path, monkeypatch):
    assert differences(forward, run_in_order(tmp_path, examples(), Log(monkeypatch))) == []


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
