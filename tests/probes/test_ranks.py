"""The five rank probes against numpy on features recomputed by hand, and that they share one decomposition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import fit_tiny

import plasticity_rl.callback.module_probes
from callbacks import ApproximateRank, EffectiveRank, FeatureRank, SRank, StableRank
from plasticity_rl.callback import RLCallback

PROBES = [ApproximateRank, EffectiveRank, FeatureRank, SRank, StableRank]


class Recompute(RLCallback):
    """Recomputes features and ranks at every update; the test looks at those of the last one."""

    def __init__(self) -> None:
        self.expected: dict[str, float] = {}
        self.undivided: dict[str, float] = {}

    @torch.no_grad()
    def on_update_end(self, agent, batch, metrics) -> None:
        batch = agent.probe_batch(30)
        x = agent.encoder(batch["pixels"])
        joint = torch.cat([agent.critic.trunk(x), batch["action"]], -1)
        features = {"encoder": x, "actor": agent.actor.policy[:4](agent.actor.trunk(x))}
        features |= {f"critic.{head}": getattr(agent.critic, head)[:4](joint) for head in ("Q1", "Q2")}
        self.expected = {}
        for name, matrix in features.items():
            s = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
            p = s[s > 0] / s.sum()
            self.expected[f"rank/srank/{name}"] = 1 + int((np.cumsum(s) / s.sum() < 0.95).sum())
            self.expected[f"rank/approximate_rank/{name}"] = 1 + int((np.cumsum(s**2) / (s**2).sum() < 0.99).sum())
            self.expected[f"rank/feature_rank/{name}"] = int((s / 30**0.5 > 0.05).sum())
            self.undivided[f"rank/feature_rank_undivided/{name}"] = int((s > 0.05).sum())
            self.expected[f"rank/effective_rank/{name}"] = np.exp(-(p * np.log(p)).sum())
            self.expected[f"rank/stable_rank/{name}"] = (s**2).sum() / s[0] ** 2


OPTIONS = {SRank: {"delta": 0.05}, FeatureRank: {"epsilon": 0.05}}


def probes(**options):
    return [cls(every_n_updates=1, **options, **OPTIONS.get(cls, {})) for cls in PROBES]


def test_logged_values_are_those_recomputed_by_hand(tmp_path):
    watcher = Recompute()
    agent = fit_tiny(tmp_path, callbacks=[*probes(batch_size=30), watcher], max_frames=120)
    logged = {tag: float(value) for tag, value in agent.latest.items() if tag.startswith("rank/")}
    assert logged.keys() == watcher.expected.keys()
    assert len(logged) == 5 * 4
    for tag, value in watcher.expected.items():
        assert logged[tag] == pytest.approx(value, rel=1e-5), tag
    assert len({round(value, 3) for value in logged.values()}) > 6


def test_both_readings_of_the_feature_rank_side_by_side(tmp_path):
    watcher = Recompute()
    both = [FeatureRank(every_n_updates=1, batch_size=30, epsilon=0.05, divide=divide) for divide in (True, False)]
    found = fit_tiny(tmp_path, callbacks=[*both, watcher], max_frames=60).latest
    expected = {tag: value for tag, value in watcher.expected.items() if "feature_rank" in tag} | watcher.undivided
    assert {tag: found[tag] for tag in found if tag.startswith("rank/")} == expected
    assert sum(watcher.undivided.values()) > sum(expected.values()) / 2, (
        "the division must matter for this to be a test"
    )


def test_one_decomposition_per_module_and_update_serves_all(tmp_path, monkeypatch):
    calls = []
    original = plasticity_rl.callback.module_probes.spectrum
    monkeypatch.setattr(
        plasticity_rl.callback.module_probes, "spectrum", lambda features: calls.append(1) or original(features)
    )
    agent = fit_tiny(tmp_path, callbacks=probes(modules=["encoder", "actor"], batch_size=8), max_frames=80)
    assert len(calls) == 2 * agent.num_updates > 10


@pytest.mark.parametrize("cls", PROBES)
def test_dead_features_have_rank_zero(cls, tmp_path):
    class Kill(RLCallback):
        def on_train_start(self, trainer, pl_module) -> None:
            torch.nn.init.constant_(pl_module.actor.policy[2].bias, -1000.0)

    probe = cls(every_n_updates=1, modules=["actor"], batch_size=8)
    agent = fit_tiny(tmp_path, callbacks=[Kill(), probe], max_frames=60)
    assert agent.latest[f"rank/{probe.name}/actor"] == 0.0
