"""Churn against outputs of networks kept aside before the update."""

from __future__ import annotations

import copy

import pytest
import torch
from bare import around_a_projection
from helpers import fit_tiny

from callbacks import Churn, Reset
from plasticity_rl.callback import RLCallback


class Recompute(RLCallback):
    """Keeps networks and batch before every update and compares by hand. Its name sorts after the probe's."""

    def __init__(self) -> None:
        self.results: list[tuple[dict[str, float], dict[str, float]]] = []

    def on_update_start(self, agent) -> None:
        self.batch = agent.probe_batch(6)
        self.networks = [copy.deepcopy(getattr(agent, name)) for name in ("encoder", "actor", "critic")]

    @torch.no_grad()
    def on_update_end(self, agent, batch, metrics) -> None:
        outputs = []
        for encoder, actor, critic in (self.networks, (agent.encoder, agent.actor, agent.critic)):
            features = encoder(self.batch["pixels"])
            outputs.append((actor(features).numpy(), *(q.numpy() for q in critic(features, self.batch["action"]))))
        (a, q1, q2), (b, r1, r2) = outputs
        expected = {"churn/actor": abs(b - a).mean(), "churn/critic": (abs(r1 - q1).mean() + abs(r2 - q2).mean()) / 2}
        self.results.append((expected, {tag: float(v) for tag, v in agent.latest.items() if tag.startswith("churn/")}))


def test_logged_values_are_those_over_one_update(tmp_path):
    watcher = Recompute()
    fit_tiny(tmp_path, callbacks=[Churn(every_n_updates=1, batch_size=6), watcher], max_frames=80)
    assert len(watcher.results) == 10
    for expected, logged in watcher.results:
        assert logged == pytest.approx(expected, rel=1e-4, abs=1e-7)
        assert min(expected.values()) > 0


def test_the_period_does_not_change_what_is_compared(tmp_path):
    watcher = Recompute()
    fit_tiny(tmp_path, callbacks=[Churn(every_n_updates=3, batch_size=6), watcher], max_frames=64)
    assert len(watcher.results) == 6
    assert [bool(logged) for _, logged in watcher.results] == [False, False, True, True, True, True]
    for update in (3, 6):
        expected, logged = watcher.results[update - 1]
        assert logged == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_a_reset_before_the_update_does_not_count(tmp_path):
    watcher = Recompute()
    reset = Reset(modules=["actor", "critic"], every_n_frames=8)
    fit_tiny(tmp_path, callbacks=[Churn(every_n_updates=1, batch_size=6), reset, watcher], max_frames=64)
    for expected, logged in watcher.results:
        assert logged == pytest.approx(expected, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("order", [1, -1])
def test_a_projection_after_a_jump_does_not_count(order):
    """Nothing learns: all that moves weights is a perturbation, and what puts rows back to norm 1 behind it."""
    logged, moved = around_a_projection(Churn(every_n_updates=1, batch_size=8), "churn/critic", order)
    assert len(logged) == 3
    assert max(logged) < 1e-5
    assert moved


def test_without_learning_there_is_none(tmp_path):
    class Freeze(RLCallback):
        def on_train_start(self, trainer, pl_module) -> None:
            for optimizer in trainer.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = 0.0

    agent = fit_tiny(tmp_path, callbacks=[Freeze(), Churn(every_n_updates=1, batch_size=6)], max_frames=60)
    assert (float(agent.latest["churn/actor"]), float(agent.latest["churn/critic"])) == (0.0, 0.0)
