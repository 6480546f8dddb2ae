"""FractionActiveUnits against activations recomputed by hand, layer by layer."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import fit_tiny
from tensordict import TensorDict
from torch import Tensor, nn

from callbacks import CReLU, FractionActiveUnits, Reset
from plasticity_rl import DrQV2, UserError, make_env
from plasticity_rl.agents.probing import record_pass
from plasticity_rl.augment.transforms import random_shift
from plasticity_rl.callback import RLCallback
from plasticity_rl.measures import fraction_active_units


def relu_outputs(layers: nn.Sequential, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Apply the layers one by one; return the result and the outputs of the ReLUs by position."""
    outputs = {}
    for position, layer in enumerate(layers):
        x = torch.where(x > 0, x, torch.zeros_like(x)) if isinstance(layer, nn.ReLU) else layer(x)
        if isinstance(layer, nn.ReLU):
            outputs[str(position)] = x
    return x, outputs


class Recompute(RLCallback):
    """Keeps the networks and the state of the augmentation before every update, and recomputes what was measured."""

    def __init__(self) -> None:
        self.results: list[tuple[dict[str, float], dict[str, float]]] = []
        self.layers: list[dict[str, Tensor]] = []

    def on_update_start(self, agent) -> None:
        # After the probe's own on_update_start, so the copies may carry its hooks; they are never run as modules here.
        self.networks = {name: copy.deepcopy(agent.module(name)) for name in ("encoder", "actor", "critic")}
        self.shifts = torch.Generator()
        self.shifts.set_state(agent.rng.get("augment").get_state())

    @torch.no_grad()
    def on_update_end(self, agent, batch, metrics) -> None:
        pixels = random_shift(batch["pixels"], 1, self.shifts) if agent.augment else batch["pixels"]
        encoder, actor, critic = self.networks.values()
        features, active = relu_outputs(encoder.convnet, pixels.float() / 255.0 - 0.5)
        layers = {f"encoder/convnet.{i}": h for i, h in active.items()}
        features = features.flatten(1)
        _, active = relu_outputs(actor.policy, actor.trunk(features))
        layers |= {f"actor/policy.{i}": h for i, h in active.items()}
        for head in ("Q1", "Q2"):
            joint = torch.cat([critic.trunk(features), batch["action"]], -1)
            _, active = relu_outputs(getattr(critic, head), joint)
            layers |= {f"critic/{head}.{i}": h for i, h in active.items()}
        self.layers.append(layers)
        expected = {f"fau/{name}": int((h > 0).sum()) / h.numel() for name, h in layers.items()}
        for module in ("encoder", "actor", "critic"):
            own = [h for name, h in layers.items() if name.startswith(module)]
            active_units = sum(int((h > 0).sum()) for h in own)
            expected[f"fau/{module}"] = active_units / sum(h.numel() for h in own)
        logged = {tag: float(value) for tag, value in agent.latest.items() if tag.startswith("fau/")}
        self.results.append((expected, logged))


class Values(RLCallback):
    """Notes at which updates ``fau/encoder`` was logged. Its name sorts after the probe's, so it looks after it."""

    def __init__(self) -> None:
        self.values: dict[int, float] = {}

    def on_update_end(self, agent, batch, metrics) -> None:
        value = agent.latest.pop("fau/encoder", None)
        if value is not None:
            self.values[agent.num_updates] = float(value)


@pytest.mark.parametrize("augment", [True, False])
def test_logged_values_are_those_recomputed_by_hand(augment, tmp_path):
    recompute = Recompute()
    probe = FractionActiveUnits(every_n_updates=1)
    options = {"agent_options": {"augment": augment}, "max_frames": 120}
    fit_tiny(tmp_path, callbacks=[probe, recompute], **options)
    assert len(recompute.results) == 20
    for expected, logged in recompute.results:
        assert logged.keys() == expected.keys()
        assert len(logged) == 3 + 4 + 2 + 4
        for tag, value in expected.items():
            assert logged[tag] == pytest.approx(value, abs=1e-6), tag
    first, last = recompute.results[0][1], recompute.results[-1][1]
    assert first != last, "the values must move for this to be a test"


def test_module_value_is_pooled_by_elements_not_averaged_over_layers(tmp_path):
    recompute = Recompute()
    fit_tiny(tmp_path, callbacks=[FractionActiveUnits(every_n_updates=1), recompute], max_frames=60)
    _, logged = recompute.results[-1]
    sizes = [7 * 7, 5 * 5, 3 * 3, 1 * 1]  # of 16x16 images, the same number of channels in each layer
    layers = [logged[f"fau/encoder/convnet.{i}"] for i in (1, 3, 5, 7)]
    pooled = sum(size * value for size, value in zip(sizes, layers, strict=True)) / sum(sizes)
    assert logged["fau/encoder"] == pytest.approx(pooled, abs=1e-6)
    assert abs(pooled - sum(layers) / 4) > 1e-3


def test_at_initialisation_it_is_about_one_half(tmp_path):
    """The published curves start near 0.5; wide enough here for the mean to settle."""
    options = {"agent_options": {"hidden_dim": 256, "feature_dim": 50, "num_channels": 16, "num_seed_frames": 100}}
    options["data_options"] = {"batch_size": 32}
    values = []
    for seed in (1, 2, 3):
        agent = fit_tiny(
            tmp_path / str(seed),
            callbacks=[FractionActiveUnits(every_n_updates=1)],
            seed=seed,
            max_frames=104,
            **options,
        )
        assert agent.num_updates == 1
        values.append([float(agent.latest[f"fau/{name}"]) for name in ("encoder", "actor", "critic")])
    for value in torch.tensor(values).mean(0).tolist():
        assert 0.40 <= value <= 0.60


def test_a_fresh_published_network_on_real_images_is_at_one_half():
    """84x84 images of cheetah_run, encoder, actor and critic; the published curves begin at 0.45 to 0.52."""
    env = make_env("cheetah_run", seed=1)
    seen = env.rollout(8)
    env.close()
    batch = TensorDict({"pixels": seen["pixels"], "action": seen["action"]}, batch_size=len(seen))
    values = []
    for seed in range(4):
        torch.manual_seed(seed)
        agent = DrQV2(tuple(seen["pixels"].shape[1:]), seen["action"].shape[-1])
        recorded = record_pass(agent, batch).activations
        layers = {name: list(agent.activation_layers(name).values()) for name in agent.module_names}
        assert [len(own) for own in layers.values()] == [4, 2, 4]
        values.append([fraction_active_units(recorded[layer] for layer in own) for own in layers.values()])
    for value in torch.tensor(values).mean(0).tolist():
        assert value == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("period", [1, 4, 7])
def test_every_n_updates_counts_completed_updates(period, tmp_path):
    logged = Values()
    agent = fit_tiny(tmp_path, callbacks=[FractionActiveUnits(every_n_updates=period), logged])
    assert list(logged.values) == list(range(period, agent.num_updates + 1, period))


def test_period_does_not_change_the_values(tmp_path):
    every, seldom = Values(), Values()
    fit_tiny(tmp_path / "1", callbacks=[FractionActiveUnits(every_n_updates=1), every])
    fit_tiny(tmp_path / "5", callbacks=[FractionActiveUnits(every_n_updates=5), seldom])
    assert seldom.values == {update: every.values[update] for update in seldom.values}
    assert seldom.values


def test_measured_after_interventions_of_the_same_update_and_before_its_step(tmp_path):
    """A reset of the whole agent takes the dead network's value back to that of a fresh one, at once."""

    class Kill(RLCallback):
        def on_train_start(self, trainer, pl_module) -> None:
            for layer in (pl_module.critic.Q1[0], pl_module.critic.Q2[0]):
                torch.nn.init.constant_(layer.bias, -100.0)

    tags = {}

    class Note(RLCallback):
        def on_update_end(self, agent, batch, metrics) -> None:
            tags[agent.env_frames] = agent.latest["fau/critic/Q1.1"]

    probe, reset = FractionActiveUnits(every_n_updates=1), Reset(modules=["critic"], at_frames=[80])
    fit_tiny(tmp_path, callbacks=[Note(), probe, Kill(), reset], max_frames=120)
    assert all((float(value) == 0.0) == (frame <= 80) for frame, value in tags.items())
    assert {80, 84} <= tags.keys()


def test_modules_and_layers_can_be_chosen(tmp_path):
    probe = FractionActiveUnits(every_n_updates=2, modules=["critic.Q1"], per_layer=False)
    agent = fit_tiny(tmp_path, callbacks=[probe], max_frames=80)
    assert {tag for tag in agent.latest if tag.startswith("fau/")} == {"fau/critic.Q1"}


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (["critics"], "no module 'critics' in DrQV2; there are .*Did you mean critic"),
        (["critic.trunk"], "FractionActiveUnits.modules: 'critic.trunk' has no hidden ReLU layer"),
    ],
)
def test_wrong_modules_are_refused_before_training(modules, message, tmp_path):
    with pytest.raises(UserError, match=message):
        fit_tiny(tmp_path, callbacks=[FractionActiveUnits(modules=modules)])


@pytest.mark.parametrize("period", [0, -3])
def test_bad_period_is_refused(period):
    with pytest.raises(UserError, match="FractionActiveUnits.every_n_updates: the period is"):
        FractionActiveUnits(every_n_updates=period)


@pytest.mark.parametrize("modules", [["actor", "critic"], ["critic", "critic.Q1"]])
def test_a_layer_of_two_modules_is_counted_for_both(modules, tmp_path):
    agent = fit_tiny(tmp_path, callbacks=[FractionActiveUnits(every_n_updates=1, modules=modules)], max_frames=80)
    for name in modules:
        assert 0.0 <= float(agent.latest[f"fau/{name}"]) <= 1.0


# ---- the other definitions and the other batch -----------------------------------------------------------------------


class Tags(RLCallback):
    """Notes what was logged under ``fau...`` at every update. Its name sorts after the probe's."""

    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []

    def on_update_end(self, agent, batch, metrics) -> None:
        self.logged.append({tag: float(value) for tag, value in agent.latest.items() if tag.startswith("fau")})


def of_units(layers: dict[str, Tensor], prefix: str, threshold: float) -> float:
    """Share of units that are above zero on more than ``threshold`` of inputs and positions, unit by unit."""
    rates = []
    for name, output in layers.items():
        if name.startswith(prefix):
            for unit in range(output.shape[1]):
                own = output[:, unit].flatten()
                rates.append(sum(float(value) > 0 for value in own) / len(own))
    return sum(rate > threshold for rate in rates) / len(rates)


def test_shares_of_units_on_the_training_batch(tmp_path):
    recompute, tags = Recompute(), Tags()
    probes = [
        FractionActiveUnits(every_n_updates=1),
        FractionActiveUnits(every_n_updates=1, definition="any_input"),
        FractionActiveUnits(every_n_updates=1, definition="mean_rate", threshold=0.5),
    ]
    fit_tiny(tmp_path, callbacks=[*probes, recompute, tags], max_frames=80)
    assert len(recompute.layers) == len(tags.logged) == 10
    for layers, logged in zip(recompute.layers, tags.logged, strict=True):
        assert len(logged) == 3 * (3 + 4 + 2 + 4)
        for prefix in ("encoder", "actor", "critic", "encoder/convnet.7", "critic/Q2.3"):
            assert logged[f"fau_any_input/{prefix}"] == pytest.approx(of_units(layers, prefix, 0.0))
            assert logged[f"fau_mean_rate/{prefix}"] == pytest.approx(of_units(layers, prefix, 0.5))
    values = [
        [logged[f"{name}/critic"] for name in ("fau", "fau_any_input", "fau_mean_rate")] for logged in tags.logged
    ]
    assert any(len(set(row)) == 3 for row in values), "three definitions, three values"


@pytest.mark.parametrize("augment", [True, False])
def test_on_the_probe_batch_augmentation_does_not_matter(augment, tmp_path):
    tags, outputs = Tags(), []

    class Outputs(RLCallback):
        def on_update_end(self, agent, batch, metrics) -> None:
            with torch.no_grad():
                x = agent.encoder.convnet(agent.probe_batch(12)["pixels"].float() / 255.0 - 0.5)
            outputs.append({"convnet.7": x})

    options = {"every_n_updates": 1, "modules": ["encoder"], "batch": "probe", "batch_size": 12}
    probes = [FractionActiveUnits(definition=definition, **options) for definition in ("element_rate", "any_input")]
    fit_tiny(tmp_path, callbacks=[*probes, Outputs(), tags], max_frames=60, agent_options={"augment": augment})
    assert len(outputs) == 5
    for layers, logged in zip(outputs, tags.logged, strict=True):
        rate = float((layers["convnet.7"] > 0).float().mean())
        assert logged["fau_element_rate_probe_batch/encoder/convnet.7"] == pytest.approx(rate)
        expected = of_units(layers, "convnet.7", 0.0)
        assert logged["fau_any_input_probe_batch/encoder/convnet.7"] == pytest.approx(expected)
        assert not any(tag.startswith("fau/") for tag in logged)


@pytest.mark.parametrize("batch", ["training", "probe"])
def test_with_crelu_units_are_counted_and_not_their_outputs(batch, tmp_path):
    """Every unit has one output above zero: counted by output, those of one sign on all inputs would lower it."""

    class Push(RLCallback):
        def on_train_start(self, trainer, pl_module) -> None:
            torch.nn.init.constant_(pl_module.critic.Q1[0].bias[:4], -100.0)

    options = {"every_n_updates": 1, "modules": ["critic.Q1"], "batch": batch, "per_layer": False}
    probes = [FractionActiveUnits(definition=name, **options) for name in ("any_input", "mean_rate", "element_rate")]
    latest = fit_tiny(tmp_path, callbacks=[CReLU(modules=["critic"]), Push(), *probes], max_frames=44).latest
    end = "/critic.Q1" if batch == "training" else "_probe_batch/critic.Q1"
    assert float(latest[f"fau_any_input{end}"]) == float(latest[f"fau_mean_rate{end}"]) == 1.0
    assert float(latest["fau/critic.Q1" if batch == "training" else f"fau_element_rate{end}"]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"definition": "units"}, "FractionActiveUnits.definition='units' must be one of"),
        ({"batch": "train"}, "FractionActiveUnits.batch='train' must be one of"),
        ({"threshold": 1.0}, r"FractionActiveUnits.threshold=1.0 must be in \[0, 1\)"),
        ({"batch_size": 0}, "FractionActiveUnits.batch_size=0 must be"),
    ],
)
def test_wrong_values_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        FractionActiveUnits(**options)
