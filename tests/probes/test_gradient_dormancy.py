"""GradientDormancy against gradients recomputed layer by layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bare import BareAgent
from helpers import fit_tiny

from callbacks import CReLU, GradientDormancy, ReGraMa
from plasticity_rl import losses
from plasticity_rl.agents.drqv2.networks import noisy_action
from plasticity_rl.callback import RLCallback
from plasticity_rl.callback.gradient_probes import probe_generator
from plasticity_rl.rng import derive_seed

TAUS = (0.0, 0.5, 0.9)


class Recompute(RLCallback):
    """Keeps scores recomputed by hand with what was logged. Its name sorts after the probe's."""

    def __init__(self) -> None:
        self.results: list[tuple[dict[str, np.ndarray], dict[str, float]]] = []

    def noise(self, agent) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(agent.rng.seed, f"probe/noise/{agent.num_updates}"))

    def on_update_end(self, agent, batch, metrics) -> None:
        batch, outputs = agent.probe_batch(6), {}

        def run(layers, x, prefix):
            for i, layer in enumerate(layers):
                x = layer(x)
                if isinstance(layer, torch.nn.ReLU):
                    outputs[f"{prefix}{i}"] = x
            return x

        features = run(agent.encoder.convnet, batch["pixels"].float() / 255.0 - 0.5, "encoder/convnet.").flatten(1)
        joint = torch.cat([agent.critic.trunk(features), batch["action"]], -1)
        q1, q2 = (run(getattr(agent.critic, head), joint, f"critic/{head}.") for head in ("Q1", "Q2"))
        with torch.no_grad():
            later, noise = agent.encoder(batch["next", "pixels"]), self.noise(agent)
            action = noisy_action(agent.actor(later), agent.stddev, agent.stddev_clip, noise)
            target = losses.td_target(batch["reward"], batch["discount"], *agent.critic_target(later, action))
        gradients = self.gradients(losses.critic_loss(q1, q2, target), outputs)
        outputs.clear()
        mean = torch.tanh(run(agent.actor.policy, agent.actor.trunk(features.detach()), "actor/policy."))
        action = noisy_action(mean, agent.stddev, agent.stddev_clip, self.noise(agent))
        gradients |= self.gradients(losses.actor_loss(*agent.critic(features.detach(), action)), outputs)
        scores = {}
        for name, gradient in gradients.items():
            average = np.abs(gradient.double().numpy()).mean(axis=(0, *range(2, gradient.ndim)))
            scores[name] = average / average.mean() if average.any() else average
        self.results.append((scores, {t: float(v) for t, v in agent.latest.items() if t.startswith("gradient_d")}))

    def gradients(self, loss, outputs):
        return dict(zip(outputs, torch.autograd.grad(loss, list(outputs.values())), strict=True))


def test_logged_values_are_those_of_the_loss_that_trains_the_module(tmp_path):
    watcher, values = Recompute(), set()
    probe = GradientDormancy(every_n_updates=1, taus=TAUS, batch_size=6)
    fit_tiny(tmp_path, callbacks=[probe, watcher], max_frames=72)
    assert len(watcher.results) == 8
    for scores, logged in watcher.results:
        assert len(logged) == 3 * (3 + 4 + 2 + 4)
        for tau in TAUS:
            for name, score in scores.items():
                if abs(score - tau)[score > 0].min(initial=1.0) > 1e-4:
                    assert logged[f"gradient_dormancy/{name}/tau_{tau}"] == pytest.approx((score <= tau).mean())
            for module in ("encoder", "actor", "critic"):
                own = np.concatenate([score for name, score in scores.items() if name.startswith(module)])
                if abs(own - tau)[own > 0].min() > 1e-4:
                    assert logged[f"gradient_dormancy/{module}/tau_{tau}"] == pytest.approx((own <= tau).mean())
                values.add(logged[f"gradient_dormancy/{module}/tau_{tau}"])
    assert len(values) > 8, "the values must move for this to be a test"


def test_units_that_nobody_reads_are_dormant_and_dead_ones_that_are_read_are_not(tmp_path):
    class Cut(RLCallback):
        @torch.no_grad()
        def on_update_start(self, agent) -> None:
            for head in (agent.critic.Q1, agent.critic.Q2):
                head[2].weight[:, :4] = 0.0  # the first four units of the first layer are not read
                head[2].bias[:5] = -1000.0  # the first five units of the second layer are dead, but read

    probe = GradientDormancy(every_n_updates=1, modules=["critic"], taus=[1e-3], batch_size=6)

    class Still(RLCallback):
        def on_train_start(self, trainer, pl_module) -> None:
            for group in trainer.optimizers[2].param_groups:
                group["lr"] = 0.0

    latest = fit_tiny(tmp_path, callbacks=[Cut(), Still(), probe], max_frames=44).latest
    assert float(latest["gradient_dormancy/critic/Q1.1/tau_0.001"]) == pytest.approx(4 / 16)
    assert float(latest["gradient_dormancy/critic/Q2.3/tau_0.001"]) == 0.0
    assert float(latest["gradient_dormancy/critic/tau_0.001"]) == pytest.approx(8 / 64)


def test_layers_can_be_left_out(tmp_path):
    probe = GradientDormancy(every_n_updates=1, per_layer=False, taus=[0.5], batch_size=4)
    latest = fit_tiny(tmp_path, callbacks=[probe], max_frames=44).latest
    found = {tag for tag in latest if tag.startswith("gradient_dormancy/")}
    assert found == {f"gradient_dormancy/{name}/tau_0.5" for name in ("encoder", "actor", "critic")}


def test_a_crelu_unit_that_is_read_by_one_of_its_outputs_is_not_dormant():
    """In front of an output the gradient is the TD error times the weight, so a unit's mean is that of two |w|."""
    probe = GradientDormancy(modules=["critic"], taus=[0.0, 0.57, 0.58], batch_size=8)
    agent = BareAgent(CReLU(modules=["critic"]), probe)
    weights = torch.ones(24)
    weights[[0, 3, 12 + 3]] = 0.0  # the positive part of unit 0, both parts of unit 3
    with torch.no_grad():
        agent.critic.Q1[4].weight.copy_(weights[None])
    batch = agent.probe_batch(8)
    found = probe.measure(agent, batch, batch)
    # Means are 0.5, 0 and ten times 1, on average 10.5 / 12; the score of 0.5 is 0.571.
    shares = [float(found[f"gradient_dormancy/critic/Q1.3/tau_{tau}"]) for tau in probe.taus]
    assert shares == pytest.approx([1 / 12, 1 / 12, 2 / 12])


def test_units_are_those_that_regrama_finds(monkeypatch):
    """Under the same noise of the loss."""
    names, taus = ["encoder", "actor", "critic"], [0.0, 0.5, 0.9]
    monkeypatch.setattr(
        "callbacks.interventions.regrama.probe_generator", lambda agent, _: probe_generator(agent, "noise")
    )
    probe = GradientDormancy(modules=names, taus=taus, batch_size=8)
    agent = BareAgent(CReLU(modules=names), probe)
    batch, some = agent.probe_batch(8), 0
    found = probe.measure(agent, batch, batch)
    for tau in taus:
        inactive = ReGraMa(modules=names, tau=tau, batch_size=8).find_inactive(agent)
        for name, layers in inactive.items():
            joined = torch.cat([units for _, units in layers.values()]).float()
            assert float(found[f"gradient_dormancy/{name}/tau_{tau}"]) == pytest.approx(float(joined.mean()))
            some += 0 < int(joined.sum()) < len(joined)
            for path, (_, units) in layers.items():
                tag = f"gradient_dormancy/{path.replace('.', '/', 1)}/tau_{tau}"
                assert float(found[tag]) == pytest.approx(float(units.float().mean()))
    assert some, "a threshold must divide the units for this to be a test"
