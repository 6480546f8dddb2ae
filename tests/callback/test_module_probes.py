"""The batch and the forward pass that probes share, and what every module probe has in common."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from helpers import TINY_TRAINER, fit_tiny, tiny_agent, tiny_data
from run_state import DieAt, Killed, Log, differences, fingerprint, hooks_of, replay_state, run_state
from tensordict import TensorDict
from tiny_agent import TinyAgent
from torch import nn

import callbacks
from plasticity_rl import Probe, UserError, make_trainer
from plasticity_rl.agents.probing import record_pass
from plasticity_rl.callback import RLCallback
from plasticity_rl.callback.module_probes import or_nan
from plasticity_rl.callback.weight_probes import weights_by_layer
from plasticity_rl.rng import derive_seed, global_rng_state

ACTIVATION_PROBES = [
    "DormantUnits",
    "LinearizedUnits",
    "SRank",
    "FeatureRank",
    "EffectiveRank",
    "StableRank",
    "ApproximateRank",
]
WEIGHT_PROBES = ["WeightNorm", "DistanceFromInit", "WeightChange", "GradientNorm"]


def batch_for(agent, size: int = 6) -> TensorDict:
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(256, (size, 9, 16, 16), generator=generator, dtype=torch.uint8)
    action = torch.rand(size, agent.action_dim, generator=generator) * 2 - 1
    return TensorDict({"pixels": pixels, "action": action}, batch_size=size)


class Look(RLCallback):
    """Calls ``look(agent)`` at one kind of moment and keeps the results."""

    def __init__(self, look, hook: str = "on_update_end") -> None:
        self.look, self.hook = look, hook
        self.results: list[Any] = []
        setattr(self, hook, lambda agent, *_: self.results.append(self.look(agent)))


# ---- the batch -------------------------------------------------------------------------------------------------------


def test_the_batch_is_the_replays_under_a_seed_of_the_update(tmp_path):
    def look(agent):
        seed = derive_seed(agent.rng.seed, f"probe/{agent.num_updates}")
        expected = agent.data.replay.peek(8, torch.Generator().manual_seed(seed))
        return agent.probe_batch(8), expected

    watcher = Look(look)
    fit_tiny(tmp_path, callbacks=[watcher], max_frames=80, agent_options={"augment": True})
    assert len(watcher.results) > 5
    for batch, expected in watcher.results:
        assert batch.batch_size == (8,)
        assert fingerprint(batch.to_dict()) == fingerprint(expected.to_dict())
    drawn = {str(fingerprint(batch["action"])) for batch, _ in watcher.results}
    assert len(drawn) == len(watcher.results), "every update has a batch of its own"


def test_the_batch_may_be_larger_than_the_replay(tmp_path):
    watcher = Look(lambda agent: (agent.probe_batch().batch_size, agent.data.replay.num_windows))
    fit_tiny(tmp_path, callbacks=[watcher], max_frames=60)
    assert all(size == (256,) and windows < 256 for size, windows in watcher.results)


def test_batch_and_activations_are_shared_within_an_update_and_freed_after_it(tmp_path):
    kept = []

    def look(agent):
        batch, layers = agent.probe_batch(8), agent.probe_activations("critic", 8)
        kept.extend(weakref.ref(tensor) for tensor in [batch["pixels"], *layers.values()])
        again = agent.probe_activations("critic.Q1", 8)
        assert agent.probe_batch(7) is not batch
        return agent.probe_batch(8) is batch, again["1"] is layers["Q1.1"]

    watcher = Look(look)
    fit_tiny(tmp_path, callbacks=[watcher], max_frames=60)
    gc.collect()
    assert watcher.results
    assert all(same for pair in watcher.results for same in pair)
    assert all(reference() is None for reference in kept)


@pytest.mark.parametrize("hook", ["on_update_start", "on_update_end"])
def test_what_was_measured_of_weights_that_changed_is_not_shared(tmp_path, hook):
    """Before an update nothing is: one intervention may have changed the weights that the next one looks at."""

    def look(agent):
        before = agent.probe_activations("actor", 8)["policy.1"]
        bias = agent.actor.policy[0].bias
        with torch.no_grad():
            bias.add_(0.5)
        if hook == "on_update_end":
            agent.reinitialized([bias])
        return bool((agent.probe_activations("actor", 8)["policy.1"] != before).any())

    watcher = Look(look, hook)
    fit_tiny(tmp_path, callbacks=[watcher], max_frames=60)
    assert watcher.results
    assert all(watcher.results)


def test_a_failing_probe_leaves_nothing_shared(tmp_path):
    def fail(agent):
        agent.probe_batch(8)
        raise Killed

    agents = []
    with pytest.raises(Killed):
        fit_tiny(tmp_path, callbacks=[Look(agents.append, "on_update_start"), Look(fail)])
    assert agents[-1]._once_per_update is None


def test_looking_draws_nothing_and_changes_nothing(tmp_path):
    def state(agent):
        return fingerprint(
            {
                "weights": agent.state_dict(),
                "modes": {name: module.training for name, module in agent.named_modules()},
                "generators": agent.rng.state_dict(),
                "global": global_rng_state(),
                "replay": replay_state(agent),
            }
        ) | {"hooks": hooks_of(agent)}

    def look(agent):
        before = state(agent)
        agent.probe_activations("encoder", 16)
        return differences(before, state(agent))

    watcher = Look(look)
    fit_tiny(tmp_path, callbacks=[watcher], max_frames=80)
    assert watcher.results
    assert all(found == [] for found in watcher.results)


# ---- the forward pass ------------------------------------------------------------------------------------------------


def test_every_hidden_layer_is_recorded_without_gradient():
    agent = tiny_agent(tiny_data())
    batch = batch_for(agent)
    recorded = record_pass(agent, batch).activations
    names = {name: recorded[layer] for name, layer in agent.named_modules() if layer in recorded}
    expected = [f"encoder.convnet.{i}" for i in (1, 3, 5, 7)] + ["actor.policy.1", "actor.policy.3"]
    assert list(names) == [*expected, "critic.Q1.1", "critic.Q1.3", "critic.Q2.1", "critic.Q2.3"]
    assert all(not output.requires_grad and len(output) == 6 for output in names.values())
    with torch.no_grad():
        features = agent.encoder(batch["pixels"])
        joint = torch.cat([agent.critic.trunk(features), batch["action"]], -1)
        assert torch.equal(names["encoder.convnet.7"].flatten(1), features)
        assert torch.equal(names["actor.policy.3"], agent.actor.policy[:4](agent.actor.trunk(features)))
        assert torch.equal(names["critic.Q2.3"], agent.critic.Q2[:4](joint))


class Restless(TinyAgent):
    """Has what a forward pass in training mode would change or draw, and a ReLU that works in place."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.torso.extend([nn.BatchNorm1d(16), nn.Dropout(0.5), nn.ReLU(inplace=True), nn.Hardtanh(0, 0.1, True)])


def test_dropout_and_batch_norm_rest_and_layers_in_place_do_no_harm():
    data = tiny_data()
    agent = Restless(data.obs_shape, data.action_dim)
    agent.torso[4].eval()
    before = fingerprint({"state": agent.state_dict(), "rng": global_rng_state()})
    modes = {name: module.training for name, module in agent.named_modules()}
    recorded = record_pass(agent, batch_for(agent)).activations
    assert fingerprint({"state": agent.state_dict(), "rng": global_rng_state()}) == before
    assert {name: module.training for name, module in agent.named_modules()} == modes
    assert modes["torso.3"] is not modes["torso.4"]
    assert float(recorded[agent.torso[5]].max()) > 0.11, "as it was before the next layer overwrote it"


def test_a_failing_pass_leaves_no_hook_and_no_mode_behind(monkeypatch):
    agent = tiny_agent(tiny_data())
    agent.actor.eval()
    modes = {name: module.training for name, module in agent.named_modules()}
    monkeypatch.setattr(agent.critic, "forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        record_pass(agent, batch_for(agent))
    assert hooks_of(agent) == {}
    assert {name: module.training for name, module in agent.named_modules()} == modes


# ---- what module probes have in common -------------------------------------------------------------------------------


def test_an_undefined_value_is_nan_and_other_errors_are_not_hidden():
    from plasticity_rl.measures import l2_norm

    assert torch.tensor(or_nan(l2_norm, [torch.tensor([float("inf")])])).isnan()
    with pytest.raises(ZeroDivisionError):
        or_nan(lambda: 1 / 0)


def test_layers_are_those_that_hold_parameters():
    agent = tiny_agent(tiny_data())
    assert list(weights_by_layer(agent, "actor")) == [
        "trunk.0",
        "trunk.1",
        *(f"policy.{i}" for i in (0, 2, 4)),
    ]
    assert list(weights_by_layer(agent, "actor.trunk.0")) == [""]


@pytest.mark.parametrize("name", [*ACTIVATION_PROBES, *WEIGHT_PROBES])
@pytest.mark.parametrize(
    ("modules", "message"),
    [(["critics"], "no module 'critics' in DrQV2; there are .*Did you mean critic"), ([], r"names no module")],
)
def test_wrong_modules_are_refused_before_training(name, modules, message, tmp_path):
    with pytest.raises(UserError, match=message):
        fit_tiny(tmp_path, callbacks=[getattr(callbacks, name)(modules=modules)])


@pytest.mark.parametrize("name", ACTIVATION_PROBES)
def test_what_has_no_hidden_units_or_no_batch_is_refused(name, tmp_path):
    cls = getattr(callbacks, name)
    with pytest.raises(UserError, match=f"{name}.modules: 'critic.trunk' has no hidden ReLU layer"):
        fit_tiny(tmp_path, callbacks=[cls(modules=["critic.trunk"])])
    with pytest.raises(UserError, match=f"{name}.batch_size=0 must be"):
        cls(batch_size=0)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("SRank", {"delta": 1.0}, r"SRank.delta=1.0 must be in \[0, 1\)"),
        ("SRank", {"delta": float("nan")}, "SRank.delta=nan"),
        ("FeatureRank", {"epsilon": -0.1}, "FeatureRank.epsilon=-0.1 must be >= 0"),
        ("DormantUnits", {"taus": []}, "DormantUnits.taus="),
        ("DormantUnits", {"taus": [0.1, -1]}, "DormantUnits.taus="),
    ],
)
def test_wrong_values_are_refused(name, arguments, message):
    with pytest.raises(UserError, match=message):
        getattr(callbacks, name)(**arguments)


class Poison(RLCallback):
    """Makes the encoder's last layer put out infinity after ten updates."""

    def on_update_start(self, agent) -> None:
        if agent.num_updates == 10:
            with torch.no_grad():
                agent.encoder.convnet[6].bias.fill_(float("inf"))


OTHER_PROBES = {
    "FractionActiveUnits": {"modules": ["encoder"]},
    "GradientDormancy": {"modules": ["encoder"], "batch_size": 4},
    "GradientCovariance": {"modules": ["encoder"], "batch_size": 2},
    "HessianTop": {"modules": ["encoder"], "batch_size": 2, "num_iterations": 1},
    "NTKRank": {"modules": ["encoder"], "output": "encoder", "batch_size": 2},
    "RandomTargetFit": {"modules": ["encoder"], "output": "encoder", "batch_size": 2, "num_steps": 1},
    "Churn": {"modules": ["encoder"], "batch_size": 4},
    "TargetStatistics": {"batch_size": 4},
}
RUN_ON = {name: {"modules": ["encoder"]} for name in [*ACTIVATION_PROBES, *WEIGHT_PROBES]} | OTHER_PROBES


@pytest.mark.parametrize("name", RUN_ON)
def test_a_run_that_diverges_goes_on(name, tmp_path):
    probe = getattr(callbacks, name)(every_n_updates=1, **RUN_ON[name])
    never_stop = {"detect_nan": False}
    agent = fit_tiny(tmp_path, callbacks=[Poison(), probe], max_frames=104, trainer_options=never_stop)
    assert agent.env_frames == 104
    assert agent.num_updates > 12
    own = ("/encoder", "/encoder/", "target/")
    values = {tag: float(value) for tag, value in agent.latest.items() if any(part in tag for part in own)}
    if name not in ("DormantUnits", "GradientDormancy"):  # which log nothing then
        assert values
        assert any(value != value for value in values.values())


# ---- another agent ---------------------------------------------------------------------------------------------------


def probes_of_the_other() -> list[Probe]:
    options = {"modules": ["torso", "policy", "value"], "every_n_updates": 3}
    probes = [getattr(callbacks, name)(**options, batch_size=20) for name in ACTIVATION_PROBES]
    probes += [getattr(callbacks, name)(**options) for name in WEIGHT_PROBES]
    probes += [callbacks.FractionActiveUnits(**options, definition="any_input", batch="probe", batch_size=20)]
    few = {"every_n_updates": 4, "batch_size": 3}
    trained = {"modules": ["torso", "value"], **few}
    return [
        *probes,
        callbacks.GradientDormancy(**options, batch_size=20),
        callbacks.GradientCovariance(**trained, loss="td"),
        callbacks.HessianTop(**trained, loss="td", num_iterations=2),
        callbacks.NTKRank(**trained, output="value"),
        callbacks.RandomTargetFit(**trained, output="value", num_steps=2),
        callbacks.Churn(**few, modules=["policy", "value"]),
        callbacks.TargetStatistics(**few, module="value"),
    ]


def fit_other(folder, given, **options: Any) -> TinyAgent:
    pl.seed_everything(1, verbose=False)
    data = tiny_data(max_frames=150, seed=1, eval_every_n_frames=60)
    agent = TinyAgent(data.obs_shape, data.action_dim, seed=1)
    make_trainer(folder, callbacks=given, **TINY_TRAINER).fit(agent, data, **options)
    return agent


def test_another_agent_is_measured_by_its_own_names_and_resumes_exactly(tmp_path, monkeypatch):
    log = Log(monkeypatch)
    bare = run_state(fit_other(tmp_path / "bare", []))
    log.take()
    watched = run_state(fit_other(tmp_path / "watched", probes_of_the_other()))
    expected = log.take()
    assert differences(bare, watched) == []
    tags = {tag for _, tag, _ in expected[0]}
    assert tags >= {
        "dormant/torso/2/tau_0.1",
        "dormant_overlap/value/tau_0.0",
        "rank/srank/policy",
        "rank/feature_rank/torso",
    }
    assert tags >= {"weight_norm/torso/1", "distance_from_init/policy", "gradient_norm_l1/value/2"}
    assert tags >= {"fau_any_input_probe_batch/torso", "linearized/value", "weight_change/policy/0", "churn/policy"}
    assert tags >= {"gradient_dormancy/policy/tau_0.0", "gradient_covariance/torso+value/mean_cosine"}
    assert tags >= {"ntk/value/torso+value/srank", "random_target_fit/value/torso+value/gap"}
    assert tags >= {"hessian_top/torso+value/eigenvalue", "target/td_error", "target/overestimation"}
    with pytest.raises(Killed):
        fit_other(tmp_path / "resumed", [*probes_of_the_other(), DieAt(100)])
    before = log.take(until=60)
    resumed = fit_other(tmp_path / "resumed", probes_of_the_other(), ckpt_path="last")
    after = log.take()
    assert differences(watched, run_state(resumed)) == []
    assert expected == (before[0] + after[0], before[1] + after[1])
