"""WeightChange against weights kept aside at the measurements."""

from __future__ import annotations

import pytest
import torch
from helpers import fit_tiny
from run_state import DieAt, Killed

from callbacks import Reset, WeightChange
from plasticity_rl.callback import RLCallback


class Weights(RLCallback):
    """Keeps all weights, and what was logged, after every update. Its name sorts before the probe's."""

    def __init__(self) -> None:
        self.weights: list[dict[str, torch.Tensor]] = []
        self.logged: dict[int, dict[str, float]] = {}

    def on_train_start(self, trainer, pl_module) -> None:
        self.weights.append({name: p.detach().clone() for name, p in pl_module.named_parameters()})

    def on_update_end(self, agent, batch, metrics) -> None:
        self.weights.append({name: p.detach().clone() for name, p in agent.named_parameters()})

    def on_env_step(self, agent, step) -> None:
        changes = {tag: float(v) for tag, v in agent.latest.items() if tag.startswith("weight_change/")}
        self.logged.setdefault(agent.num_updates, changes)


def by_hand(now, then, prefix: str) -> float:
    squares = [(now[n] - then[n]).double().square().sum() for n in now if n.startswith(prefix)]
    return float(torch.stack(squares).sum().sqrt())


def test_logged_values_are_those_over_the_interval(tmp_path):
    kept = Weights()
    fit_tiny(tmp_path, callbacks=[kept, WeightChange(every_n_updates=4)], max_frames=122)
    for update in (4, 8, 12, 16):
        logged = kept.logged[update]
        assert len(logged) == (1 + 4) + (1 + 5) + (1 + 8)
        for prefix in ("encoder.", "actor.", "critic.", "critic.Q2.0.", "actor.trunk.1."):
            top, _, layer = prefix.rstrip(".").partition(".")
            expected = by_hand(kept.weights[update], kept.weights[update - 4], prefix)
            assert expected > 0
            assert logged[f"weight_change/{top}/{layer}".rstrip("/")] == pytest.approx(expected, rel=1e-6)


def test_a_reset_is_one_peak(tmp_path):
    kept = Weights()
    given = [kept, WeightChange(every_n_updates=1, per_layer=False), Reset(modules=["critic"], at_frames=[60])]
    fit_tiny(tmp_path, callbacks=given, max_frames=100)
    values = [kept.logged[update]["weight_change/critic"] for update in range(2, 15)]
    peak = max(range(len(values)), key=values.__getitem__)
    assert values[peak] > 5 * max(values[:peak] + values[peak + 1 :])


def test_after_a_resume_it_is_measured_from_the_weights_of_the_last_measurement(tmp_path):
    with pytest.raises(Killed):
        fit_tiny(tmp_path, callbacks=[WeightChange(every_n_updates=4), DieAt(120)])
    probe, kept = WeightChange(every_n_updates=4), Weights()
    straight = fit_tiny(tmp_path / "straight", callbacks=[WeightChange(every_n_updates=4), kept], max_frames=122)
    resumed = fit_tiny(tmp_path, callbacks=[probe], max_frames=122, ckpt_path="last")
    tag = "weight_change/encoder"
    assert float(resumed.latest[tag]) == float(straight.latest[tag])
    assert float(resumed.latest[tag]) == pytest.approx(
        by_hand(kept.weights[20], kept.weights[16], "encoder."), rel=1e-6
    )
