"""Laws 7 and 8: callbacks compose in either order, and the same seed gives the same run; see ``test_laws.py``."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest
from callback_examples import EXPORTED, compatible, example, examples, names
from helpers import fit_tiny
from run_state import (
    Log,
    Watcher,
    callback_states,
    differences,
    run_state,
)

import callbacks
from plasticity_rl import Mutation, ScheduledIntervention, UserError
from plasticity_rl.callback import RLCallback

QUICK_PAIRS = 60
"""Pairs of callbacks tried in the quick suite; beyond that number the rest of them are marked slow."""
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

    def mutates(self, agent) -> Mutation:
        return Mutation()

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


def test_law_8_same_seed_same_run(forward, tmp_path, monkeypatch):
    assert differences(forward, run_in_order(tmp_path, examples(), Log(monkeypatch))) == []
