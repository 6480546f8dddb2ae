"""RandomTargetFit against training by hand, on networks that can and cannot be trained."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from helpers import TINY_DISCRETE, fit_tiny, tiny_agent, tiny_data, tiny_dqn, weights_hash
from run_state import fingerprint
from tensordict import TensorDict

from callbacks import RandomTargetFit, SpectralNorm
from plasticity_rl.callback import RLCallback
from plasticity_rl.rng import derive_seed
from plasticity_rl.surgery import reinitialize

TAG = "random_target_fit/critic"


class ByHand(RLCallback):
    """Trains copies of encoder and critic with backward passes and an optimizer of their own."""

    def outputs(self, encoder, critic, batch) -> torch.Tensor:
        return torch.cat(critic(encoder(batch["pixels"]), batch["action"]), -1)

    def see(self, fresh: tuple[torch.nn.Module, ...]) -> None:
        """Look at a fresh encoder and critic before they are used."""

    def on_update_end(self, agent, batch, metrics) -> None:
        outputs = self.outputs
        batch = agent.probe_batch(8)
        seed = derive_seed(agent.rng.seed, f"probe/random_target_fit/{agent.num_updates}")
        generator = torch.Generator().manual_seed(seed)

        def copied():
            return copy.deepcopy(agent.encoder).eval(), copy.deepcopy(agent.critic).eval()

        def fresh():
            pair = copied()
            for module in pair:
                reinitialize(module, agent.init_layer, generator)
            self.see(pair)
            return pair

        before = weights_hash(agent)
        with torch.no_grad():
            random = outputs(*fresh(), batch)
        found = []
        for pair in (copied(), fresh()):
            parameters = [p for module in pair for p in module.parameters()]
            optimizer = torch.optim.Adam(parameters, lr=0.01)
            sines = torch.sin(1e5 * random)
            targets = outputs(*pair, batch).detach() + sines
            for _ in range(5):
                optimizer.zero_grad()
                (outputs(*pair, batch) - targets).square().mean().backward()
                optimizer.step()
            error = (outputs(*pair, batch).detach() - targets).square().mean()
            found.append(float(error / ((sines - sines.mean(0)) ** 2).mean()))
        assert weights_hash(agent) == before
        self.expected = found


def test_logged_values_are_those_of_training_by_hand(tmp_path):
    watcher = ByHand()
    probe = RandomTargetFit(every_n_updates=1, num_steps=5, learning_rate=0.01, batch_size=8)
    latest = fit_tiny(tmp_path, callbacks=[probe, watcher], max_frames=52).latest
    loss, fresh = watcher.expected
    tag = f"{TAG}/encoder+critic"
    # The sine of 1e5 times an output turns the rounding of float32 into about 1e-2.
    assert float(latest[f"{tag}/loss"]) == pytest.approx(loss, rel=0.02)
    assert float(latest[f"{tag}/fresh_loss"]) == pytest.approx(fresh, rel=0.02)
    assert float(latest[f"{tag}/gap"]) == pytest.approx(
        float(latest[f"{tag}/loss"]) - float(latest[f"{tag}/fresh_loss"]), abs=1e-6
    )
    assert abs(loss - fresh) > 1e-4


class NormedByHand(ByHand):
    """The same for DQN, where the layers of fresh networks divide by spectral norms of their own weights."""

    def __init__(self, probe: RandomTargetFit) -> None:
        self.probe = probe
        self.norms: list[tuple[float, float]] = []

    def outputs(self, encoder, critic, batch) -> torch.Tensor:
        return critic(encoder(batch["pixels"])).squeeze(-1)

    @torch.no_grad()
    def see(self, fresh) -> None:
        for layer in [layer for module in fresh for layer in module.modules() if hasattr(layer, "transforms")]:
            (transform,), weight = layer.transforms, layer.weight.flatten(1)
            norm = lambda layer=layer: float(torch.linalg.matrix_norm(layer.effective_weight.flatten(1), 2))  # noqa: E731
            of_the_agent = norm()
            for _ in range(15):
                right = weight.T @ transform.left
                image = weight @ (right / right.norm())
                transform.left.copy_(image / image.norm())
            self.norms.append((of_the_agent, norm()))

    def on_update_end(self, agent, batch, metrics) -> None:
        super().on_update_end(agent, batch, metrics)
        states = lambda: fingerprint([agent.state_dict(), agent.rng.state_dict(), torch.get_rng_state()])  # noqa: E731
        before = states()
        self.probe.measure(agent, batch, metrics)
        assert states() == before


def test_a_fresh_network_has_the_spectral_norms_of_its_own_weights(tmp_path):
    """With the vectors of the agent's weights norms come out too small, and what a fresh network puts out too large."""
    probe = RandomTargetFit(every_n_updates=1, num_steps=5, learning_rate=0.01, batch_size=8)
    watcher = NormedByHand(probe)
    latest = fit_tiny(
        tmp_path,
        callbacks=[SpectralNorm(modules=["encoder", "critic"]), probe, watcher],
        max_frames=60,
        make_agent=tiny_dqn,
        data_options=TINY_DISCRETE,
    ).latest
    with_the_agents, with_their_own = torch.tensor(watcher.norms).mean(0)
    assert with_the_agents > 1.15
    assert with_their_own == pytest.approx(1.0, abs=0.02)
    loss, fresh = watcher.expected
    assert float(latest[f"{TAG}/encoder+critic/loss"]) == pytest.approx(loss, rel=0.02)
    assert float(latest[f"{TAG}/encoder+critic/fresh_loss"]) == pytest.approx(fresh, rel=0.02)


class Kill(RLCallback):
    """Makes every hidden unit of the critic silent for good."""

    def on_train_start(self, trainer, pl_module) -> None:
        for head in (pl_module.critic.Q1, pl_module.critic.Q2):
            torch.nn.init.constant_(head[0].bias, -1000.0)


def test_a_network_that_lost_its_plasticity_has_a_gap_and_a_fresh_one_has_none(tmp_path):
    gaps = {}
    for given in ([], [Kill()]):
        probe = RandomTargetFit(
            every_n_updates=1, modules=["critic"], num_steps=150, num_targets=2, learning_rate=0.01, batch_size=16
        )
        latest = fit_tiny(tmp_path / str(len(given)), callbacks=[*given, probe], max_frames=44).latest
        values = {tag.rpartition("/")[2]: float(v) for tag, v in latest.items() if tag.startswith(f"{TAG}/critic/")}
        assert values.keys() == {"loss", "fresh_loss", "gap"}
        gaps[bool(given)] = values
    assert gaps[True]["loss"] == pytest.approx(1.0, abs=0.1), "no better than a constant"
    assert gaps[True]["gap"] > 0.2
    assert abs(gaps[False]["gap"]) < 0.5 * gaps[True]["gap"]


def test_frozen_modules_give_nan(tmp_path):
    class Freeze(RLCallback):
        def on_update_start(self, agent) -> None:
            agent.encoder.requires_grad_(False)

    probe = RandomTargetFit(every_n_updates=1, modules=["encoder"], num_steps=1, batch_size=4)
    latest = fit_tiny(tmp_path, callbacks=[Freeze(), probe], max_frames=44).latest
    assert all(math.isnan(float(latest[f"{TAG}/encoder/{name}"])) for name in ("loss", "fresh_loss", "gap"))


def agent_of_quickstart():
    """Return an agent at the size of ``configs/quickstart.yaml``, which is probed on a batch of its own.

    Images differ as those of a task do: by where a small thing is on one background.
    """
    data = tiny_data(image_size=48)
    torch.manual_seed(2)
    agent = tiny_agent(data, num_channels=8, hidden_dim=128, feature_dim=50)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, data.obs_shape, generator=generator, dtype=torch.uint8).repeat(128, 1, 1, 1)
    for image, (y, x) in zip(pixels, torch.randint(42, (128, 2), generator=generator).tolist(), strict=True):
        image[:, y : y + 6, x : x + 6] = 255
    action = torch.rand(128, data.action_dim, generator=generator) * 2 - 1
    batch = TensorDict({"pixels": pixels, "action": action}, batch_size=128)
    agent.probe_batch = lambda size: batch[:size]
    return agent


def found_by_default(agent, modules: list[str] | None = None) -> dict[str, float]:
    probe = RandomTargetFit(modules=modules)
    probe.resolve(agent)
    batch = agent.probe_batch(128)
    return {tag.rpartition("/")[2]: value for tag, value in probe.measure(agent, batch, TensorDict({})).items()}


def test_the_default_budget_leaves_a_fresh_network_half_way_and_tells_a_worn_one_apart():
    """A worn network has three units in four dead."""
    agent = agent_of_quickstart()
    with torch.no_grad():
        for layer in (*(head[i] for head in (agent.critic.Q1, agent.critic.Q2) for i in (0, 2)),):
            layer.bias[: 3 * len(layer.bias) // 4] = -1000.0
    found = found_by_default(agent)
    assert 0.25 < found["fresh_loss"] < 0.75, "of a first loss of 1"
    assert found["gap"] > 0.1


def test_values_far_from_zero_are_no_loss_of_plasticity():
    """What is to be learned is added to what the network puts out: fresh heads with values of 100 fit it as before."""
    agent = agent_of_quickstart()
    before = found_by_default(agent, modules=["critic"])
    with torch.no_grad():
        for head in (agent.critic.Q1, agent.critic.Q2):
            head[-1].bias += 100.0
    after = found_by_default(agent, modules=["critic"])
    assert after["fresh_loss"] == before["fresh_loss"]
    assert after["loss"] == pytest.approx(before["loss"], abs=0.02)
