"""Callbacks that a user derives from ours: what their constructors may look like."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from bare import BareAgent
from helpers import fit_tiny
from run_state import DieAt, Killed, differences, run_state

from callbacks import FractionActiveUnits, Reset, WeightNorm
from plasticity_rl import Mutation, Probe, ScheduledIntervention, UserError, make_trainer
from plasticity_rl.agents.hooks import constructor_parameters
from plasticity_rl.callback import Intervention
from plasticity_rl.run.description import hyperparameters, short_name


class LouderReset(Reset):
    """Hands on what it does not take itself."""

    def __init__(self, volume: float = 2.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.volume = volume


class LoudestReset(LouderReset):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


class CriticReset(Reset):
    """Decides what the class below would be told."""

    def __init__(self, frame: int) -> None:
        super().__init__(modules=["critic"], at_frames=[frame])
        self.frame = frame


class Forgetful(Reset):
    def __init__(self, strength: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)


@pytest.mark.parametrize("cls", [LouderReset, LoudestReset])
def test_arguments_that_are_handed_on_are_arguments(cls):
    one = cls(volume=3.0, modules=["actor"], every_n_frames=50)
    assert list(constructor_parameters(cls)) == ["volume", *constructor_parameters(Reset)]
    assert (one.arguments()["volume"], one.arguments()["modules"], one.arguments()["every_n_frames"]) == (
        3,
        ["actor"],
        50,
    )
    assert one.state_key != cls(volume=3.0, modules=["actor"], every_n_frames=60).state_key
    assert short_name([(cls, {"every_n_frames": 50, "volume": 2.0})]).endswith("-every_n_frames=50")


def test_a_class_that_decides_for_the_one_below_has_its_own_arguments_only():
    assert CriticReset(70).arguments() == {"frame": 70}


def test_a_run_with_them_goes_on_exactly(tmp_path):
    def given() -> list:
        return [LouderReset(modules=["critic"], every_n_frames=50), CriticReset(130), FractionActiveUnits()]

    straight = fit_tiny(tmp_path / "straight", callbacks=given())
    assert hyperparameters(straight, straight.trainer.callbacks)["interventions/LouderReset/volume"] == 2.0
    with pytest.raises(Killed):
        fit_tiny(tmp_path / "killed", callbacks=[*given(), DieAt(150)])
    resumed = fit_tiny(tmp_path / "killed", callbacks=given(), ckpt_path="last")
    assert differences(run_state(straight), run_state(resumed)) == []


def test_an_argument_that_is_not_kept_is_refused_before_training(tmp_path):
    with pytest.raises(UserError, match=r"Forgetful does not keep its argument 'strength'.* self\.strength = strength"):
        make_trainer(tmp_path, callbacks=[Forgetful(0.5, modules=["critic"], every_n_frames=50)])


class Unscheduled(Probe):
    reads = writes = frozenset()

    def __init__(self, *, every_n_updates: int = 1) -> None:
        self.every_n_updates = every_n_updates

    def measure(self, agent, batch, metrics):
        return {}


class NeverReset(Reset):
    def __init__(self, *, modules: list[str]) -> None:
        self.modules = modules


@pytest.mark.parametrize(
    ("callback", "lacks"),
    [(Unscheduled(), "events"), (NeverReset(modules=["critic"]), "last_layers")],
    ids=["probe", "intervention"],
)
def test_a_constructor_that_forgets_the_one_below_is_told_so(callback, lacks, tmp_path):
    name = type(callback).__name__
    with pytest.raises(AttributeError, match=rf"no attribute '{lacks}': .* of {name} has to call super\(\)\.__init"):
        fit_tiny(tmp_path, callbacks=[callback])


# ---- what the methods of a class of the user's own have to be --------------------------------------------------------


class Shrinks(ScheduledIntervention):
    """Whole; those below lack something."""

    def __init__(self, *, at_frames: Sequence[int] = (50,)) -> None:
        super().__init__(at_frames=at_frames)

    def mutates(self, agent):
        return Mutation(parameters=agent.parameter_names([agent.module("critic")]))

    @torch.no_grad()
    def act(self, agent):
        for parameter in agent.module("critic").parameters():
            parameter.mul_(0.5)
        return "shrunk"


class Undeclared(Shrinks):
    mutates = Intervention.mutates


class Idle(Shrinks):
    act = ScheduledIntervention.act


class ByItself(Intervention):
    """Acts whenever it says."""

    def on_update_start(self, agent):
        """Would shrink something."""


class Nothing(Probe):
    """Measures nothing."""


class MisplacedFamily(Shrinks):
    family = "nonsense"


class MisplacedStage(Shrinks):
    stage = "norm"


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (Undeclared, r"Undeclared does not define 'mutates': .* return Mutation\(parameters=agent\.parameter_names"),
        (ByItself, r"ByItself does not define 'mutates': .* return Mutation\(\) where"),
        (Idle, r"Idle does not define 'act': .* returns one line of text"),
        (Nothing, r"Nothing does not define 'measure': .* returns scalars by tag"),
        (MisplacedFamily, r"MisplacedFamily\.family='nonsense' must be one of \['experience', .*'surgery'\]"),
        (MisplacedStage, r"MisplacedStage\.stage='norm' must be one of .* Did you mean norms"),
    ],
)
def test_a_class_that_lacks_something_is_refused_before_training(cls, message, tmp_path):
    with pytest.raises(UserError, match=message):
        BareAgent(cls())
    with pytest.raises(UserError, match=message):
        fit_tiny(tmp_path, callbacks=[cls()])
    assert not list(tmp_path.rglob("*.ckpt")), "nothing was evaluated"


@pytest.mark.parametrize("family", ["regularizer", "experience", "architecture", "optimizer"])
def test_what_works_all_along_need_not_declare_anything(family):
    class AllAlong(ByItself):
        pass

    AllAlong.family = family
    BareAgent(AllAlong())


def test_what_declares_nothing_on_purpose_says_so():
    class Silent(Undeclared):
        def mutates(self, agent):
            return Mutation()

    BareAgent(Silent())


class Measures(Probe):
    """Returns what it is given."""

    def __init__(self, found: Any) -> None:
        super().__init__(every_n_updates=1)
        self.found = found

    def measure(self, agent, batch, metrics):
        return self.found


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (None, r"NoneType, but must return scalars by tag, such as \{\"my_tag\": 1.0\}"),
        (torch.zeros(()), r"Tensor of shape \(\), but must return scalars by tag"),
        ({"a": torch.zeros(3)}, r"Tensor of shape \(3,\) as 'a', but must return a scalar .* such as x\.mean\(\)"),
        ({"a": np.zeros((2, 1))}, r"ndarray of shape \(2, 1\) as 'a', but must return a scalar"),
        ({"a": "0.5"}, "str as 'a', but must return a scalar"),
        ({"a": None}, "NoneType as 'a', but must return a scalar"),
        ({3: 1.0}, "float as 3, but must return a scalar for every tag, which is text"),
    ],
)
def test_what_is_no_scalar_by_tag_is_refused_by_name(found, message):
    with pytest.raises(UserError, match=rf"^Measures\.measure returned {message}"):
        BareAgent(Measures(found)).step()


def test_all_kinds_of_scalars_are_measured():
    found = {"a": torch.zeros(1, 1), "b": np.float32(1), "c": 2, "d": math.nan, "e": np.array(4.0), "f": True}
    agent = BareAgent(Measures(found))
    agent.step()
    assert [agent.latest[tag] for tag in "abcef"] == [0, 1, 2, 4, 1]


def test_an_act_that_does_not_say_what_it_did_is_refused_by_name(tmp_path):
    class Mute(Shrinks):
        def act(self, agent):
            super().act(agent)

    with pytest.raises(UserError, match=r"^Mute\.act returned None, but must return one line of text"):
        fit_tiny(tmp_path, callbacks=[Mute()])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Reset(at_frames=100), r"Reset\.at_frames=100 must be a list: \[100\]"),
        (lambda: Reset(at_frames="100"), r"Reset\.at_frames='100' must be a list"),
        (lambda: Reset(modules="critic", at_frames=[100]), r"Reset\.modules='critic' must be a list: \['critic'\]"),
        (lambda: FractionActiveUnits(modules="actor"), r"FractionActiveUnits\.modules='actor' must be a list"),
        (lambda: WeightNorm(modules="actor"), r"WeightNorm\.modules='actor' must be a list"),
    ],
)
def test_a_single_one_where_a_list_is_meant_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
