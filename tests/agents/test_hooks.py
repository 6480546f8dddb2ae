"""One object in the training of several agents: with each new one it is as a new object, and otherwise as it was."""

from __future__ import annotations

from typing import Any

import pytest
from callback_examples import EXPORTED, example, names
from helpers import TINY_DISCRETE, fit_tiny, tiny_agent, tiny_data, tiny_dqn
from run_state import DieAt, Killed, callback_states, differences, run_state

from callbacks import (
    AdaptiveReplayRatio,
    DormantUnits,
    HareAndTortoise,
    HeavyPriming,
    L2Init,
    NeuroplasticExpansion,
    PruneDormant,
    Reset,
    ToggleAugmentation,
)
from plasticity_rl.callback import RLCallback

TO_90 = {"max_frames": 90, "data_options": {"eval_every_n_frames": 90}}


def some() -> list[RLCallback]:
    return [
        HeavyPriming(num_transitions=16, num_updates=5),
        ToggleAugmentation(at_frame=60, on=False),
        AdaptiveReplayRatio(low=0.5, high=1.0, every_n_episodes=1, threshold=1.0, module="actor"),
        PruneDormant(modules=["encoder"], tau=0.2, every_n_updates=3, batch_size=8),
        NeuroplasticExpansion(
            modules=["critic"], end_frame=80, every_n_updates=3, initial_sparsity=0.6, final_sparsity=0.2
        ),
        Reset(at_frames=[50], modules=["actor"]),
        L2Init(modules=["critic"]),
        HareAndTortoise(every_n_updates=5),
        DormantUnits(every_n_updates=10),
    ]


def without_agent(value: Any) -> Any:
    """Return what an object holds, down to plain data; of functions and what is unknown, the type."""
    if isinstance(value, (list, tuple)):
        return [without_agent(one) for one in value]
    if isinstance(value, dict):
        return {key: without_agent(one) for key, one in value.items()}
    if isinstance(value, (bool, int, float, str, frozenset, set, type(None))):
        return value
    inside = {} if callable(value) else getattr(value, "__dict__", {})
    return type(value), {name: without_agent(one) for name, one in inside.items()}


@pytest.mark.parametrize("cls", EXPORTED, ids=names(EXPORTED))
def test_to_start_anew_leaves_nothing_of_before(cls):
    """Whatever it did: nothing but the arguments is read, and those left to the agent are left to the next one."""
    for used in (example(cls), cls(**{k: v for k, v in cls.example_arguments.items() if k != "modules"})):
        expected = without_agent(type(used)(**_given(used)))
        before = vars(used).keys()
        used.resolve(tiny_agent(tiny_data()))
        for value in vars(used).values():
            if isinstance(value, dict):
                value["left"] = 1.0
        used._something_else, used._announced = 1, True
        if hasattr(used, "events"):
            used.events.seen = 99
        used.start_anew()
        assert without_agent(used) == expected
        assert vars(used).keys() == before


def _given(callback: RLCallback) -> dict[str, Any]:
    return callback.arguments() | dict.fromkeys(callback.open_arguments())


def test_a_second_agent_is_trained_as_with_new_objects(tmp_path):
    used, new = some(), some()
    fit_tiny(tmp_path / "first", callbacks=used, seed=1, **TO_90)
    second = fit_tiny(tmp_path / "second", callbacks=used, seed=2, **TO_90)
    alone = fit_tiny(tmp_path / "alone", callbacks=new, seed=2, **TO_90)
    assert second.event_counts == alone.event_counts
    assert second.event_counts.keys() >= {"heavy_priming", "toggle_augmentation", "reset", "prune_dormant"}
    assert differences(run_state(alone), run_state(second)) == []
    assert differences(callback_states(new), callback_states(used)) == []


def test_what_was_left_to_the_agent_is_asked_of_the_next_one(tmp_path):
    reset = Reset(at_frames=[50])
    fit_tiny(tmp_path / "one", callbacks=[reset], **TO_90)
    assert "actor" in reset.modules
    data = {**TO_90["data_options"], **TINY_DISCRETE}
    agent = fit_tiny(tmp_path / "two", callbacks=[reset], **{**TO_90, "data_options": data}, make_agent=tiny_dqn)
    assert "actor" not in reset.modules
    assert agent.event_counts == {"reset": 1}


def test_the_same_agent_goes_on_and_so_does_one_of_a_checkpoint(tmp_path):
    options = {"max_frames": 110, "data_options": {"eval_every_n_frames": 70}}
    whole = fit_tiny(tmp_path / "whole", callbacks=some(), **options)
    used = some()
    with pytest.raises(Killed):
        fit_tiny(tmp_path / "killed", callbacks=[*used, DieAt(85)], **options)
    resumed = fit_tiny(tmp_path / "killed", callbacks=used, ckpt_path="last", **options)
    assert differences(run_state(whole), run_state(resumed)) == []
    before = callback_states(used)
    for callback in used:
        callback.join(resumed)
    assert differences(before, callback_states(used)) == []
    assert sum(resumed.event_counts.values()) > 5
