"""GradientCovariance, NTKRank and HessianTop on layers where their values are known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import fit_tiny
from tensordict import TensorDict

from callbacks import GradientCovariance, HessianTop, NTKRank
from plasticity_rl import DQN
from plasticity_rl.callback import RLCallback
from plasticity_rl.rng import derive_seed

SIZE = 6
FRAMES_WITHOUT_DOUBLES = 100
"""At this frame six different transitions are drawn."""


class LastLayer(RLCallback):
    """Keeps what the last layer of Q1 reads, with a column of ones for its bias, and its errors on the probe batch."""

    @torch.no_grad()
    def on_update_end(self, agent, batch, metrics) -> None:
        batch = agent.probe_batch(SIZE)
        joint = torch.cat([agent.critic.trunk(agent.encoder(batch["pixels"])), batch["action"]], -1)
        hidden = agent.critic.Q1[:4](joint)
        self.reads = torch.cat([hidden, torch.ones(SIZE, 1)], 1).double().numpy()
        generator = torch.Generator().manual_seed(derive_seed(agent.rng.seed, f"probe/noise/{agent.num_updates}"))
        # One transition after the other, as the probe of single transitions draws its noise.
        targets = torch.cat([agent.td_targets(batch[i : i + 1], generator) for i in range(SIZE)])
        self.errors = (agent.critic.Q1(joint) - targets).double().numpy()


def run(tmp_path, probe, frames: int = 60) -> tuple[LastLayer, dict[str, float]]:
    watcher = LastLayer()
    agent = fit_tiny(tmp_path, callbacks=[probe, watcher], max_frames=frames)
    prefixes = ("gradient_covariance/", "ntk/", "hessian_top/")
    return watcher, {tag: float(v) for tag, v in agent.latest.items() if tag.startswith(prefixes)}


OPTIONS = {"every_n_updates": 1, "modules": ["critic.Q1.4"], "batch_size": SIZE}


def test_covariance_of_the_last_layer(tmp_path):
    """The gradient of (w h - y)^2 by the last layer is 2 (w h - y) h: its direction is that of h, with a sign."""
    watcher, logged = run(tmp_path, GradientCovariance(**OPTIONS))
    gradients = 2 * watcher.errors * watcher.reads
    unit = gradients / np.linalg.norm(gradients, axis=1, keepdims=True)
    cosines = np.array([unit[i] @ unit[j] for i in range(SIZE) for j in range(i)])
    negative = cosines[cosines < 0]
    tag = "gradient_covariance/critic.Q1.4"
    assert logged == {
        f"{tag}/mean_cosine": pytest.approx(cosines.mean(), rel=1e-4),
        f"{tag}/negative_fraction": pytest.approx((cosines < 0).mean()),
        f"{tag}/mean_negative": pytest.approx(negative.mean() if len(negative) else 0.0, rel=1e-4),
    }


def test_kernel_of_the_last_layer(tmp_path):
    """The gradient of (q1 + q2) / sqrt 2 by the last layer of Q1 is h / sqrt 2, so K = h h^T / 2."""
    watcher, logged = run(tmp_path, NTKRank(**OPTIONS), frames=FRAMES_WITHOUT_DOUBLES)
    values = np.linalg.svd(watcher.reads, compute_uv=False) ** 2 / 2
    shares = values[values > 0] / values.sum()
    tag = "ntk/critic/critic.Q1.4"
    assert logged[f"{tag}/srank"] == 1 + (np.cumsum(shares) < 0.99).sum()
    assert logged[f"{tag}/effective_rank"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-3)
    assert len(np.unique(watcher.reads, axis=0)) == len(values), "a transition drawn twice would leave no condition"
    assert logged[f"{tag}/condition_number"] == pytest.approx(values[0] / values[-1], rel=0.05)


@pytest.mark.parametrize(
    "options",
    [{}, {"dueling": True}, {"dueling": True, "num_atoms": 5, "v_min": -2.0, "v_max": 2.0}],
    ids=["plain", "dueling", "distributional"],
)
def test_kernel_of_the_value_of_the_stored_action(options):
    """By the last layer of the advantages, that value has the gradient e_a h^T; of dueling streams (e_a - 1/n) h^T.

    Of n actions; of a distribution p over atoms z with mean f times p_k (z_k - f) for every atom k.
    """
    torch.manual_seed(0)
    agent = DQN((5,), 3, hidden_dim=8, **options)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    action = torch.tensor([[0], [1], [2], [0], [1], [2]])
    batch = TensorDict({"state": torch.randn(SIZE, 5), "action": action}, [SIZE])
    agent.probe_batch = lambda size: batch
    probe = NTKRank(modules=["critic.advantage.2"], batch_size=SIZE)
    probe.resolve(agent)
    found = probe.measure(agent, batch, batch)

    with torch.no_grad():
        features = agent.encoder(batch["state"])
        reads = torch.cat([agent.critic.advantage[:2](features), torch.ones(SIZE, 1)], 1).double().numpy()
        outputs = agent.critic(features).double().numpy()
    rows = []
    for i, a in enumerate(action[:, 0].tolist()):
        by_action, by_atom = np.eye(3)[a] - (1 / 3 if "dueling" in options else 0), np.ones(1)
        if "num_atoms" in options:
            p, z = np.exp(outputs[i, a]) / np.exp(outputs[i, a]).sum(), np.linspace(-2, 2, 5)
            by_atom = p * (z - p @ z)
        rows.append(np.einsum("a,k,h->akh", by_action, by_atom, reads[i]).ravel())
    values = np.linalg.svd(np.array(rows), compute_uv=False) ** 2
    shares = values / values.sum()
    tag = "ntk/critic/critic.advantage.2"
    assert found[f"{tag}/srank"] == 1 + (np.cumsum(shares) < 0.99).sum()
    assert found[f"{tag}/effective_rank"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-3)
    assert found[f"{tag}/condition_number"] == pytest.approx(values[0] / values[-1], rel=0.01)


def test_hessian_of_the_last_layer(tmp_path):
    """The loss is quadratic in the last layer: its Hessian is 2 / n h^T h, whatever the targets."""
    watcher, logged = run(tmp_path, HessianTop(**OPTIONS, num_iterations=100))
    expected = np.linalg.eigvalsh(2 / SIZE * watcher.reads.T @ watcher.reads)[-1]
    assert logged["hessian_top/critic.Q1.4/eigenvalue"] == pytest.approx(expected, rel=1e-4)
    assert logged["hessian_top/critic.Q1.4/residual"] == pytest.approx(0.0, abs=1e-3 * expected)


def test_the_actors_loss_and_output_can_be_chosen(tmp_path):
    probes = [
        GradientCovariance(every_n_updates=1, modules=["actor"], loss="actor", batch_size=3),
        HessianTop(every_n_updates=1, modules=["actor"], loss="actor", batch_size=3, num_iterations=2),
        NTKRank(every_n_updates=1, output="actor", modules=["actor"], batch_size=3),
    ]
    latest = fit_tiny(tmp_path, callbacks=probes, max_frames=48).latest
    for tag in ("gradient_covariance/actor/mean_cosine", "hessian_top/actor/eigenvalue", "ntk/actor/actor/srank"):
        assert math.isfinite(float(latest[tag]))
        assert float(latest[tag]) != 0.0


@pytest.mark.parametrize("probe", [GradientCovariance, HessianTop, NTKRank])
def test_frozen_modules_and_lost_runs_give_nan(probe, tmp_path):
    class Spoil(RLCallback):
        def __init__(self, how: str) -> None:
            self.how = how

        def on_update_start(self, agent) -> None:
            if self.how == "freeze":
                agent.critic.Q1[4].requires_grad_(False)
            elif agent.num_updates == 3:
                with torch.no_grad():
                    agent.critic.Q1[4].bias.fill_(float("nan"))

    for how in ("freeze", "spoil"):
        given = [Spoil(how), probe(every_n_updates=1, modules=["critic.Q1.4"], batch_size=3)]
        never_stop = {"detect_nan": False}
        latest = fit_tiny(tmp_path / how, callbacks=given, max_frames=64, trainer_options=never_stop).latest
        values = [float(v) for tag, v in latest.items() if "critic.Q1.4" in tag]
        assert len(values) in (2, 3)
        assert all(math.isnan(value) for value in values)
