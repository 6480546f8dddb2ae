"""What probes look at where no modules are named comes from the agent: DrQ-v2, SAC, and one of the tests."""

from __future__ import annotations

import inspect

import lightning.pytorch as pl
import pytest
from callback_examples import INTERVENTIONS, PROBES, names
from helpers import TINY_TRAINER, fit_tiny, tiny_agent, tiny_data, tiny_sac
from tiny_agent import TinyAgent

import callbacks
from plasticity_rl import make_trainer

UNITS = ["DormantUnits", "FractionActiveUnits", "GradientDormancy", "LinearizedUnits"]
FEATURES = ["ApproximateRank", "EffectiveRank", "FeatureNorm", "FeatureRank", "SRank", "StableRank"]
WEIGHTS = ["DistanceFromInit", "EffectiveLearningRate", "GradientNorm", "WeightChange", "WeightNorm"]
LOSSES = ["GradientCovariance", "GradientSpectrum", "HessianSpectrum", "HessianTop"]
OUTPUTS = ["NTKRank", "RandomTargetFit"]


OF_PUBLISHED_NAMES = (callbacks.CURL,)
"""Interventions that need an encoder of images by nature."""


def agents() -> dict[str, pl.LightningModule]:
    states, pixels = tiny_data(observation="state"), tiny_data()
    return {
        "pixels": tiny_agent(pixels),
        "states": tiny_agent(states),
        "sac": tiny_sac(states),
        "other": TinyAgent(pixels.obs_shape, pixels.action_dim),
    }


EXPECTED = {
    "pixels": [["encoder", "actor", "critic"], ["encoder", "actor", "critic.Q1", "critic.Q2"], ["encoder", "critic"]],
    "states": [["actor", "critic"], ["actor", "critic.Q1", "critic.Q2"], ["critic"]],
    "sac": [["actor", "critic"], ["actor", "critic.Q1", "critic.Q2"], ["critic"]],
    "other": [["torso", "policy", "value"], ["torso", "policy", "value"], ["torso", "value"]],
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_the_modules_of_every_agent(kind):
    agent = agents()[kind]
    networks, features, trained = EXPECTED[kind]
    for group, expected in ((UNITS + WEIGHTS, networks), (FEATURES, features), (LOSSES + OUTPUTS, trained)):
        for name in group:
            probe = getattr(callbacks, name)()
            assert probe.arguments()["modules"] is None
            probe.resolve(agent)
            assert probe.arguments()["modules"] == expected, name
    churn, targets, hessian = callbacks.Churn(), callbacks.TargetStatistics(), callbacks.HessianTop()
    fit, of_actor = callbacks.RandomTargetFit(), callbacks.HessianTop(loss=list(agent.loss_optimizers)[-1])
    for probe in (churn, targets, hessian, fit, of_actor):
        probe.resolve(agent)
    value, policy = ("value", "policy") if kind == "other" else ("critic", "actor")
    assert churn.modules == [policy, value]
    assert (targets.module, fit.output) == (value, value)
    assert hessian.loss == ("td" if kind == "other" else "critic")
    assert of_actor.modules == [policy]


def test_a_default_is_as_if_it_had_been_named():
    """So that checkpoints and random numbers of runs with named modules stay valid."""
    open_, named = callbacks.WeightNorm(), callbacks.WeightNorm(modules=["encoder", "actor", "critic"])
    open_.resolve(agents()["pixels"])
    assert open_.state_key == named.state_key
    open_.resolve(agents()["sac"])
    assert open_.modules == ["actor", "critic"], "a callback may serve another agent afterwards"
    assert named.modules == ["encoder", "actor", "critic"]


def test_tables_cover_every_probe_that_has_modules():
    with_modules = {cls.__name__ for cls in PROBES if "modules" in cls(**cls.example_arguments).arguments()}
    assert with_modules - {"Churn", "TanhSaturation"} == {*UNITS, *FEATURES, *WEIGHTS, *LOSSES, *OUTPUTS}


def every_probe() -> list:
    return [cls(**{**cls.example_arguments, "every_n_updates": 2}) for cls in PROBES]


def prefixes(tags) -> set[str]:
    return {tag.partition("/")[0] for tag in tags}


@pytest.mark.parametrize("kind", ["states", "sac", "other"])
def test_all_defaults_measure_on_every_agent(kind, tmp_path):
    given = every_probe()
    if kind == "other":
        pl.seed_everything(1, verbose=False)
        data = tiny_data(max_frames=80, seed=1, eval_every_n_frames=80)
        agent = TinyAgent(data.obs_shape, data.action_dim, seed=1)
        make_trainer(tmp_path, callbacks=given, **TINY_TRAINER).fit(agent, data)
    else:
        make = {"sac": tiny_sac, "states": tiny_agent}[kind]
        run = {"max_frames": 80, "data_options": {"observation": "state", "eval_every_n_frames": 80}}
        agent = fit_tiny(tmp_path, callbacks=given, make_agent=make, **run)
    for probe in given:
        wrote = [tag for tag in agent.latest if tag.partition("/")[0] in prefixes(probe.tags())]
        assert wrote, type(probe).__name__


def test_names_of_the_parametrized_probes_are_unique():
    assert len(set(names(PROBES))) == len(PROBES)


@pytest.mark.parametrize("kind", EXPECTED)
@pytest.mark.parametrize("cls", INTERVENTIONS, ids=names(INTERVENTIONS))
def test_the_default_modules_of_an_intervention_exist_in_every_agent(cls, kind):
    agent = agents()[kind]
    if cls.needs_pixels and kind in ("states", "sac"):
        return
    chosen = {name: value for name, value in cls.example_arguments.items() if name not in ("modules", "loss")}
    callback = cls(**chosen)
    signature = inspect.signature(cls).parameters
    if "modules" not in signature or cls in OF_PUBLISHED_NAMES:
        return
    assert signature["modules"].default is None
    callback.resolve(agent)
    assert callback.modules
    for name in callback.modules:
        agent.module(name)
    if "loss" in signature:
        assert callback.loss in agent.loss_optimizers
    if kind == "pixels":
        assert callback.arguments() == cls(**chosen).arguments(), "random numbers depend on the arguments"


def test_default_modules_of_interventions_by_hand():
    sac, pixels = agents()["sac"], agents()["pixels"]
    for agent, make, expected in (
        (sac, callbacks.ReDo, ["actor", "critic"]),
        (pixels, callbacks.ReDo, ["encoder", "actor", "critic"]),
        (sac, callbacks.SpectralNorm, ["actor.policy.0", "critic.Q1.0", "critic.Q2.0"]),
        (pixels, callbacks.SpectralNorm, ["actor.trunk", "critic.trunk"]),
        (agents()["other"], callbacks.L2Init, ["value"]),
        (agents()["other"], callbacks.Reset, ["policy", "value"]),
        (sac, callbacks.InFeR, ["critic.Q1", "critic.Q2"]),
    ):
        callback = make(at_frames=[50]) if make is callbacks.Reset else make()
        callback.resolve(agent)
        assert callback.modules == expected
