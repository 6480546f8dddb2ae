"""Norms of features, saturation, spectra and effective learning rate against slow recomputation in a short run."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from bare import around_a_projection
from helpers import fit_tiny, tiny_sac

from callbacks import (
    EffectiveLearningRate,
    FeatureNorm,
    GradientSpectrum,
    HessianSpectrum,
    TanhSaturation,
)
from plasticity_rl import UserError
from plasticity_rl.callback import RLCallback
from plasticity_rl.rng import derive_seed

HEAD = "critic.Q2.4"
"""A layer of 17 weights: its Hessian is a matrix that one can write out."""


class BySlowMeans(RLCallback):
    """Recomputes what the probes write, with numpy and finite differences; the name sorts before theirs."""

    def __init__(self) -> None:
        self.expected: dict[str, float] = {}

    def on_update_start(self, agent) -> None:
        self.before = copy.deepcopy(dict(agent.named_parameters()))

    def on_update_end(self, agent, batch, metrics) -> None:
        self.expected = {}
        self._units(agent)
        self._gradients(agent)
        for name in ("actor", "critic"):
            now, then = (
                np.concatenate([p.detach().numpy().ravel() for key, p in source if key.startswith(f"{name}.")])
                for source in (agent.named_parameters(), self.before.items())
            )
            self.expected[f"effective_learning_rate/{name}"] = np.linalg.norm(now - then) / np.linalg.norm(then)

    @torch.no_grad()
    def _units(self, agent) -> None:
        probed = agent.probe_batch(12)
        x = agent.encoder(probed["pixels"])
        trunk = agent.actor.trunk(x)
        hidden = agent.actor.policy[:3](trunk)
        norm = lambda rows: np.sqrt((rows.numpy() ** 2).sum(1)).mean()  # noqa: E731
        maps = agent.encoder.convnet[:7](probed["pixels"] / 255.0 - 0.5)
        self.expected |= {
            "feature_norm/actor": norm(hidden.relu()),
            "feature_norm/encoder": norm(x),
            "preactivation_norm/actor": norm(hidden),
            "preactivation_norm/actor/policy.3": norm(hidden),
            "preactivation_norm/actor/policy.1": norm(agent.actor.policy[0](trunk)),
            "preactivation_norm/encoder": norm(maps.flatten(1)),
            "tanh_saturation/actor/trunk.2": (np.abs(trunk.numpy()) > 0.1).mean(),
            "tanh_saturation/critic/trunk.2": (np.abs(agent.critic.trunk(x).numpy()) > 0.1).mean(),
            "policy_saturation/actor": (np.abs(agent.actor(x).numpy()) > 0.1).mean(),
        }

    def _gradients(self, agent) -> None:
        weights = [p for key, p in agent.named_parameters() if key.startswith(f"{HEAD}.")]
        probed = agent.probe_batch(12)
        noise = lambda: torch.Generator().manual_seed(  # noqa: E731
            derive_seed(agent.rng.seed, f"probe/noise/{agent.num_updates}")
        )
        gradient = torch.autograd.grad(agent.loss_on("critic", probed, noise()), weights, create_graph=True)
        flat = torch.cat([part.flatten() for part in gradient])
        rows = [torch.autograd.grad(entry, weights, retain_graph=True, allow_unused=True) for entry in flat]
        hessian = np.array([torch.cat([part.flatten() for part in row]).numpy() for row in rows], dtype=np.float64)
        values = np.linalg.eigvalsh((hessian + hessian.T) / 2)
        self.expected |= {
            f"hessian_spectrum/{HEAD}/largest": values[-1],
            f"hessian_spectrum/{HEAD}/trace": values.sum(),
        }
        self.hessian_rank = np.exp(-sum(q * np.log(q) for q in np.abs(values) / np.abs(values).sum() if q > 0))
        source, single = noise(), []
        for index in range(12):
            value = agent.loss_on("critic", probed[index : index + 1], source)
            single.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, weights)]).numpy())
        spread = np.sort(np.linalg.eigvalsh(np.cov(np.array(single, dtype=np.float64).T, bias=True)))[::-1]
        spread = spread[spread > 1e-12 * spread[0]]
        q = spread / spread.sum()
        self.expected |= {
            f"gradient_spectrum/{HEAD}/trace": spread.sum(),
            f"gradient_spectrum/{HEAD}/largest_share": q[0],
            f"gradient_spectrum/{HEAD}/effective_rank": np.exp(-(q * np.log(q)).sum()),
            f"gradient_spectrum/{HEAD}/srank": 1 + int((np.cumsum(q) < 0.99).sum()),
        }


def test_logged_values_are_those_recomputed_by_slow_means(tmp_path):
    watcher = BySlowMeans()
    one_layer = {"every_n_updates": 1, "modules": [HEAD], "batch_size": 12}
    probes = [
        FeatureNorm(every_n_updates=1, batch_size=12),
        TanhSaturation(every_n_updates=1, batch_size=12, threshold=0.1),
        HessianSpectrum(**one_layer, num_steps=17, num_vectors=200),
        GradientSpectrum(**one_layer),
        EffectiveLearningRate(every_n_updates=1),
    ]
    latest = fit_tiny(tmp_path, callbacks=[*probes, watcher], max_frames=52).latest
    for tag, value in watcher.expected.items():
        # The trace is estimated from 200 random vectors.
        tolerance = 0.15 if tag.endswith(f"spectrum/{HEAD}/trace") and tag.startswith("hessian") else 1e-3
        assert float(latest[tag]) == pytest.approx(value, rel=tolerance), tag
    assert float(latest[f"hessian_spectrum/{HEAD}/effective_rank"]) == pytest.approx(watcher.hessian_rank, rel=0.2)
    assert float(latest[f"hessian_spectrum/{HEAD}/negative_mass"]) == pytest.approx(0, abs=0.01), "least squares"
    assert 0 < float(latest["policy_saturation/actor"]) < 1


@pytest.mark.parametrize("order", [1, -1])
def test_an_effective_learning_rate_is_that_of_learning_and_of_no_projection_after_a_jump(order):
    """Nothing learns. A perturbation shrinks rows by a fifth, and they are put back before the update begins."""
    logged, moved = around_a_projection(
        EffectiveLearningRate(every_n_updates=1), "effective_learning_rate/critic", order
    )
    assert len(logged) == 3
    assert max(logged) < 1e-6
    assert moved


def test_saturation_of_sac_is_that_of_the_squashed_mean(tmp_path):
    states = {"observation": "state"}
    probe = TanhSaturation(every_n_updates=1)
    latest = fit_tiny(tmp_path, callbacks=[probe], max_frames=52, make_agent=tiny_sac, data_options=states).latest
    assert {tag for tag in latest if "saturation" in tag} == {"policy_saturation/actor"}
    with pytest.raises(UserError, match="TanhSaturation.modules: 'critic' has no tanh layer and puts out no actions"):
        fit_tiny(
            tmp_path / "b", callbacks=[TanhSaturation(modules=["critic"])], make_agent=tiny_sac, data_options=states
        )


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (TanhSaturation, {"threshold": 1.0}, r"TanhSaturation.threshold=1.0 must be in \(0, 1\)"),
        (HessianSpectrum, {"num_steps": 0}, "HessianSpectrum.num_steps=0 must be a whole number >= 1"),
        (HessianSpectrum, {"num_vectors": 5000}, "HessianSpectrum.num_vectors=5000"),
        (GradientSpectrum, {"batch_size": 1}, "GradientSpectrum.batch_size=1 must be a whole number >= 2"),
    ],
)
def test_wrong_values_are_refused(cls, arguments, message):
    with pytest.raises(UserError, match=message):
        cls(**arguments)
