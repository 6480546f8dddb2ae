"""Losses on any batch, and the gradients that probes compute from them without touching the run's own."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from helpers import fit_tiny, tiny_agent, tiny_data
from run_state import fingerprint, hooks_of
from tensordict import TensorDict
from tiny_agent import TinyAgent

import callbacks
from plasticity_rl import RLModule, UserError
from plasticity_rl.callback.gradient_probes import (
    activation_gradients,
    flat_gradient,
    hessian_product,
    per_sample_gradients,
    trained_parameters,
)


def full_batch(size: int = 5, action_dim: int = 1) -> TensorDict:
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(256, (2, size, 9, 16, 16), generator=generator, dtype=torch.uint8)
    return TensorDict(
        {
            "pixels": pixels[0],
            "action": torch.rand(size, action_dim, generator=generator) * 2 - 1,
            "reward": torch.rand(size, 1, generator=generator),
            "discount": torch.full((size, 1), 0.9),
            "next": {"pixels": pixels[1]},
        },
        batch_size=size,
    )


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def drqv2(**options) -> RLModule:
    return tiny_agent(tiny_data(), **{"augment": False, **options})


def other() -> TinyAgent:
    data = tiny_data()
    return TinyAgent(data.obs_shape, data.action_dim, augment=False)


AGENTS = {"drqv2": (drqv2, "critic", "actor"), "other": (other, "td", "dpg")}


@pytest.mark.parametrize("kind", AGENTS)
def test_the_losses_are_those_of_an_update(kind):
    make, value_loss, policy_loss = AGENTS[kind]
    agent, batch = make(), full_batch()
    agent.rng.get("update_noise").set_state(generator().get_state())
    before = float(agent.loss_on(value_loss, batch, generator()).detach())
    twin = copy.deepcopy(agent)
    metrics = agent.update(batch)
    assert float(metrics[f"loss/{value_loss}"]) == pytest.approx(before, rel=1e-6)
    # The policy's loss in the update saw the values after their step, and the second draw of the noise.
    for name in ("critic", "value"):
        if hasattr(agent, name):
            getattr(twin, name).load_state_dict(getattr(agent, name).state_dict())
    noise = generator()
    if kind == "drqv2":
        torch.randn(batch["action"].shape, generator=noise)
        features_moved = abs(float(twin.loss_on(policy_loss, batch, noise).detach()) - float(metrics["loss/actor"]))
        assert features_moved < 1e-6, "the features were those from before the encoder's step, as in the twin"


@pytest.mark.parametrize("kind", AGENTS)
def test_targets_are_those_of_the_loss_and_have_no_gradient(kind):
    make, value_loss, _ = AGENTS[kind]
    agent, batch = make(), full_batch()
    targets = agent.td_targets(batch, generator())
    assert targets.shape == (5, 1)
    assert not targets.requires_grad
    values = agent.forward_all(batch)[agent.module_names[-1]]
    expected = ((values - targets) ** 2).mean(0).sum()  # heads are summed
    assert float(agent.loss_on(value_loss, batch, generator()).detach()) == pytest.approx(float(expected.detach()))


def test_augmentation_and_added_terms_do_not_count():
    batch = full_batch()
    plain, augmented = drqv2(), drqv2(augment=True)
    augmented.load_state_dict(plain.state_dict())
    augmented.add_loss_term("critic", "extra", lambda _: torch.tensor(5.0))
    assert torch.equal(plain.loss_on("critic", batch, generator()), augmented.loss_on("critic", batch, generator()))
    assert augmented.rng.state_dict() == {}, "no number of the run was drawn"


def test_gradients_of_single_transitions_average_to_that_of_the_batch():
    agent, batch = drqv2(stddev_schedule=0.0), full_batch()
    parameters = list(trained_parameters(agent, ["encoder", "critic"]).values())
    rows = per_sample_gradients(agent, lambda one: agent.loss_on("critic", one, generator()), batch, parameters)
    whole = flat_gradient(agent.loss_on("critic", batch, generator()), parameters)
    assert rows.shape == (5, sum(p.numel() for p in parameters))
    torch.testing.assert_close(rows.mean(0), whole, rtol=1e-3, atol=1e-6)


def test_a_parameter_that_the_value_does_not_depend_on_has_gradient_zero():
    agent = drqv2()
    parameters = list(trained_parameters(agent, ["critic.Q1", "critic.Q2"]).values())
    half = sum(p.numel() for p in agent.critic.Q1.parameters())
    gradient = flat_gradient(agent.forward_all(full_batch())["critic"][:, 0].sum(), parameters)
    assert bool(gradient[:half].any())
    assert not bool(gradient[half:].any())


def test_activation_gradients_agree_with_finite_differences():
    """Moving the output of one unit on one input moves the loss by the gradient."""
    agent, batch = drqv2(stddev_schedule=0.0).double(), full_batch()
    batch["action"], batch["reward"], batch["discount"] = (batch[k].double() for k in ("action", "reward", "discount"))
    agent.encoder.forward = lambda pixels: agent.encoder.convnet(pixels.double() / 255.0 - 0.5).flatten(1)
    layer = agent.critic.Q1[1]
    found = activation_gradients(agent, "critic", {"a": layer, "idle": torch.nn.ReLU()}, batch, generator())
    assert found.keys() == {"a"}
    assert found["a"].shape == (5, 16)
    for index, unit in [(0, 0), (3, 7), (4, 15)]:
        losses = []
        for step in (1e-6, -1e-6):
            push = torch.zeros(5, 16, dtype=torch.float64)
            push[index, unit] = step
            handle = layer.register_forward_hook(lambda _, __, output, push=push: output + push)
            losses.append(float(agent.loss_on("critic", batch, generator()).detach()))
            handle.remove()
        assert (losses[0] - losses[1]) / 2e-6 == pytest.approx(float(found["a"][index, unit]), rel=1e-4, abs=1e-9)


def test_behind_a_frozen_encoder_units_still_have_a_gradient():
    agent, batch = drqv2(), full_batch()
    layers = {"encoder": agent.encoder.convnet[5]}
    expected = activation_gradients(agent, "critic", layers, batch, generator())["encoder"]
    agent.encoder.requires_grad_(False)
    found = activation_gradients(agent, "critic", layers, batch, generator())["encoder"]
    torch.testing.assert_close(found, expected)
    assert bool(found.any())


def test_products_with_the_hessian_agree_with_the_whole_matrix():
    agent, batch = drqv2(), full_batch()
    agent.double()
    batch["action"], batch["reward"], batch["discount"] = (batch[k].double() for k in ("action", "reward", "discount"))
    agent.encoder.forward = lambda pixels: agent.encoder.convnet(pixels.double() / 255.0 - 0.5).flatten(1)
    parameters = list(trained_parameters(agent, ["critic.Q2"]).values())[2:]
    product = hessian_product(agent, "critic", batch, parameters, generator())
    size = sum(p.numel() for p in parameters)
    gradient = flat_gradient(agent.loss_on("critic", batch, generator()), parameters, create_graph=True)
    rows = [flat_gradient(entry, parameters, retain_graph=True) for entry in gradient]
    whole = torch.stack(rows)
    vector = torch.from_numpy(np.random.default_rng(1).normal(size=size))
    torch.testing.assert_close(product(vector), whole @ vector)
    torch.testing.assert_close(whole, whole.T)


@pytest.mark.parametrize("kind", AGENTS)
def test_nothing_is_left_behind(kind):
    make, value_loss, policy_loss = AGENTS[kind]
    agent, batch = make(), full_batch()
    for p in agent.parameters():
        p.grad = torch.full_like(p, 3.0)
    layers = {n: m for name in agent.module_names for n, m in agent.activation_layers(name).items()}
    before = fingerprint({"weights": agent.state_dict(), "rng": agent.rng.state_dict()})
    modes = {name: m.training for name, m in agent.named_modules()}
    parameters = list(trained_parameters(agent, agent.module_names).values())
    for loss in (value_loss, policy_loss):
        activation_gradients(agent, loss, layers, batch, generator())
        per_sample_gradients(agent, lambda one, loss=loss: agent.loss_on(loss, one, generator()), batch, parameters)
        hessian_product(agent, loss, batch, parameters, generator())(torch.ones(sum(p.numel() for p in parameters)))
    assert fingerprint({"weights": agent.state_dict(), "rng": agent.rng.state_dict()}) == before
    assert {name: m.training for name, m in agent.named_modules()} == modes
    assert hooks_of(agent) == {}
    assert all(bool((p.grad == 3.0).all()) for p in agent.parameters())


def test_a_failing_loss_leaves_no_hook_behind():
    agent, batch = drqv2(), full_batch()
    batch["next", "pixels"] = batch["next", "pixels"][:, :3]
    with pytest.raises(RuntimeError):
        activation_gradients(agent, "critic", agent.activation_layers("critic"), batch, generator())
    assert hooks_of(agent) == {}


# ---- what is refused before training ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("HessianTop", {"loss": "critics"}, r"HessianTop.loss='critics': DrQV2 has the losses \['critic', 'actor'\]"),
        ("GradientCovariance", {"loss": "td"}, "GradientCovariance.loss='td': DrQV2 has"),
        ("GradientCovariance", {"modules": ["critics"]}, "no module 'critics' in DrQV2"),
        ("NTKRank", {"output": "critic.Q1"}, "NTKRank.output='critic.Q1' must be a top-level module of DrQV2"),
        ("RandomTargetFit", {"output": "value"}, "RandomTargetFit.output='value' must be a top-level module"),
        ("RandomTargetFit", {"modules": []}, r"RandomTargetFit.modules=\[\] names no module"),
        ("Churn", {"modules": ["critic.Q1"]}, "Churn.modules: 'critic.Q1' is no top-level module"),
        ("TargetStatistics", {"module": "value"}, "TargetStatistics.module='value' is no top-level module"),
        ("GradientDormancy", {"modules": ["critic.trunk"]}, "GradientDormancy.modules: 'critic.trunk' has no hidden"),
    ],
)
def test_wrong_names_are_refused_before_training(name, arguments, message, tmp_path):
    with pytest.raises(UserError, match=message):
        fit_tiny(tmp_path, callbacks=[getattr(callbacks, name)(**arguments)])


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("HessianTop", {"num_iterations": 0}, "HessianTop.num_iterations=0 must be"),
        ("HessianTop", {"batch_size": 0}, "HessianTop.batch_size=0 must be a whole number >= 1"),
        ("GradientCovariance", {"batch_size": 1}, "GradientCovariance.batch_size=1 must be a whole number >= 2"),
        ("RandomTargetFit", {"num_steps": 0}, "RandomTargetFit.num_steps=0 must be"),
        ("RandomTargetFit", {"num_targets": 0}, "RandomTargetFit.num_targets=0 must be"),
        ("RandomTargetFit", {"learning_rate": 0.0}, "RandomTargetFit.learning_rate=0.0 must be > 0"),
        ("RandomTargetFit", {"batch_size": 1}, "RandomTargetFit.batch_size=1 must be a whole number >= 2"),
        ("GradientDormancy", {"taus": []}, "GradientDormancy.taus="),
        ("GradientDormancy", {"taus": [-0.1]}, "GradientDormancy.taus="),
        ("TargetStatistics", {"batch_size": 0}, "TargetStatistics.batch_size=0 must be"),
        ("Churn", {"batch_size": 0}, "Churn.batch_size=0 must be"),
    ],
)
def test_wrong_values_are_refused(name, arguments, message):
    with pytest.raises(UserError, match=message):
        getattr(callbacks, name)(**arguments)


@pytest.mark.parametrize(
    ("name", "method"),
    [("HessianTop", "loss_on"), ("GradientDormancy", "loss_on"), ("TargetStatistics", "td_targets")],
)
def test_an_agent_without_what_is_needed_is_refused_by_name(name, method, tmp_path, monkeypatch):
    from plasticity_rl import DrQV2

    monkeypatch.setattr(DrQV2, method, getattr(RLModule, method))
    with pytest.raises(UserError, match=f"{name} needs an agent with {method}, which DrQV2 lacks"):
        fit_tiny(tmp_path, callbacks=[getattr(callbacks, name)()])
