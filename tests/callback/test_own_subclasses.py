"""Callbacks that a user derives from ours: what their constructors may look like."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import fit_tiny
from run_state import DieAt, Killed, differences, run_state

from callbacks import FractionActiveUnits, Reset
from plasticity_rl import Probe, UserError, make_trainer
from plasticity_rl.agents.hooks import constructor_parameters
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
