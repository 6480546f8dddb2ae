"""GradientNorm against gradients recomputed from the losses of the published update."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from helpers import fit_tiny

from callbacks import GradientNorm
from plasticity_rl import losses
from plasticity_rl.agents.drqv2.networks import noisy_action
from plasticity_rl.callback import RLCallback


class Recompute(RLCallback):
    """Keeps networks and noise before an update; recomputes its gradients from the two losses by autograd."""

    def __init__(self) -> None:
        self.results: list[tuple[dict[str, float], dict[str, float]]] = []

    def on_update_start(self, agent) -> None:
        names = ("encoder", "actor", "critic", "critic_target")
        self.networks = [copy.deepcopy(getattr(agent, name)) for name in names]
        self.noise = torch.Generator()
        self.noise.set_state(agent.rng.get("update_noise").get_state())

    def on_update_end(self, agent, batch, metrics) -> None:
        encoder, actor, critic, target_critic = self.networks
        features = encoder(batch["pixels"])
        with torch.no_grad():
            later = encoder(batch["next", "pixels"])
            action = noisy_action(actor(later), agent.stddev, agent.stddev_clip, self.noise)
            target = losses.td_target(batch["reward"], batch["discount"], *target_critic(later, action))
        critic_loss = losses.critic_loss(*critic(features, batch["action"]), target)
        weights = [*encoder.parameters(), *critic.parameters()]
        gradients = torch.autograd.grad(critic_loss, weights)
        count = len(list(encoder.parameters()))
        own = {"encoder": gradients[:count], "critic": gradients[count:]}
        action = noisy_action(actor(features.detach()), agent.stddev, agent.stddev_clip, self.noise)
        # The actor's loss sees the critic after its step, as it is now.
        actor_loss = losses.actor_loss(*agent.critic(features.detach(), action))
        own["actor"] = torch.autograd.grad(actor_loss, list(actor.parameters()))
        expected = {}
        for name, parts in own.items():
            joined = np.concatenate([part.double().numpy().ravel() for part in parts])
            expected |= {f"gradient_norm_l{k}/{name}": np.linalg.norm(joined, k) for k in (0, 1, 2)}
        logged = {tag: float(value) for tag, value in agent.latest.items() if tag.startswith("gradient_norm")}
        self.results.append((expected, logged))


def test_each_module_has_the_gradient_of_its_own_loss(tmp_path):
    watcher = Recompute()
    probe = GradientNorm(every_n_updates=1, per_layer=False)
    fit_tiny(tmp_path, callbacks=[probe, watcher], agent_options={"augment": False}, max_frames=80)
    assert len(watcher.results) == 10
    for expected, logged in watcher.results:
        assert logged.keys() == expected.keys()
        for tag, value in expected.items():
            assert logged[tag] == pytest.approx(value, rel=1e-4), tag
        assert len(set(logged.values())) == 9


def test_layers_add_up_to_their_module(tmp_path):
    latest = fit_tiny(tmp_path, callbacks=[GradientNorm(every_n_updates=1)], max_frames=80).latest
    layers = {tag: float(value) for tag, value in latest.items() if tag.startswith("gradient_norm_l1/critic/")}
    assert len(layers) == 8
    assert sum(layers.values()) == pytest.approx(float(latest["gradient_norm_l1/critic"]))
    squares = [float(v) ** 2 for tag, v in latest.items() if tag.startswith("gradient_norm_l2/encoder/")]
    assert sum(squares) ** 0.5 == pytest.approx(float(latest["gradient_norm_l2/encoder"]))


def test_frozen_weights_have_no_gradient(tmp_path):
    class Freeze(RLCallback):
        def on_train_start(self, trainer, pl_module) -> None:
            pl_module.encoder.requires_grad_(False)

    latest = fit_tiny(tmp_path, callbacks=[Freeze(), GradientNorm(every_n_updates=1)], max_frames=80).latest
    assert [float(latest[f"gradient_norm_{kind}/encoder"]) for kind in ("l0", "l1", "l2")] == [0.0] * 3
    assert float(latest["gradient_norm_l2/critic"]) > 0
