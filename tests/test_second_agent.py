"""Every callback on an agent of another kind: other names, an MLP encoder, one critic, other optimizers."""

from __future__ import annotations

import inspect
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from helpers import TINY_TRAINER, tiny_data
from run_state import differences, run_state
from tiny_agent import TinyAgent

import callbacks
from plasticity_rl import Intervention, Probe, UserError, make_trainer
from plasticity_rl.callback import RLCallback
from plasticity_rl.run.video import EvalVideo

THEIR_NAMES = {
    "encoder": "torso",
    "actor": "policy",
    "critic": "value",
    "critic.Q1": "value",
    "critic.Q2": "value",
    "actor.trunk": "policy",
    "critic.trunk": "value",
}
THEIR_LOSSES = {"critic": "td", "actor": "dpg"}
SPECIAL: dict[str, dict[str, Any]] = {
    "CURL": {"projection": None},  # no layer of it reads the features alone
    # Its policy ends in a tanh, so it has no head.
    **{name: {"modules": ["value"]} for name in ("PlasticityInjection", "SimBaBlocks", "BroNet", "SimBaV2Blocks")},
}
REFUSED = {"SimBaV2Blocks": "'value' reads the hidden units of torso"}
"""What cannot work on it, and what the one line says."""


def translated(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, (list, tuple)):
        return list(dict.fromkeys(names.get(item, item) for item in value))
    return names.get(value, value)


def for_second_agent(cls: type[RLCallback]) -> RLCallback:
    """Return the example of a callback with names of the second agent in place of those of DrQ-v2."""
    defaults = {name: p.default for name, p in inspect.signature(cls).parameters.items() if p.default is not p.empty}
    arguments = {**defaults, **cls.example_arguments}
    for name in arguments.keys() & {"modules", "module", "observed", "encoder", "projection", "outputs", "output"}:
        arguments[name] = translated(arguments[name], THEIR_NAMES)
    if "loss" in arguments:
        arguments["loss"] = translated(arguments["loss"], THEIR_LOSSES)
    return cls(**{**arguments, **SPECIAL.get(cls.__name__, {})})


def fit(folder, *given: RLCallback) -> TinyAgent:
    pl.seed_everything(1, verbose=False)
    data = tiny_data(max_frames=110, seed=1, eval_every_n_frames=110)
    agent = TinyAgent(data.obs_shape, data.action_dim, seed=1)
    film = EvalVideo(every_n_evals=0)
    make_trainer(folder, callbacks=[*given, film], log_every_n_steps=1, **TINY_TRAINER).fit(agent, data)
    return agent


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> TinyAgent:
    return fit(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("name", callbacks.__all__)
def test_it_acts_or_measures_on_the_second_agent(name, plain, tmp_path):
    callback = for_second_agent(getattr(callbacks, name))
    if name in REFUSED:
        with pytest.raises(UserError, match=REFUSED[name]):
            fit(tmp_path, callback)
        return
    agent = fit(tmp_path, callback)
    assert agent.num_updates == plain.num_updates or isinstance(callback, Intervention)
    assert all(bool(torch.isfinite(p).all()) for p in agent.parameters())
    if isinstance(callback, Probe):
        assert agent.latest.keys() > plain.latest.keys(), "it measured nothing"
        assert differences(run_state(plain)["weights"], run_state(agent)["weights"]) == []
    else:
        assert differences(run_state(plain)["weights"], run_state(agent)["weights"]) != [], "it did nothing"
