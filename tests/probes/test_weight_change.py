"""WeightChange against weights kept aside at the measurements."""

from __future__ import annotations

import pytest
import torch
from helpers import fit_tiny
from run_state import DieAt, Killed

from callbacks import Reset, WeightChange, WeightNorm
from plasticity_rl.callback import RLCallback

TAGS = ("weight_change", "weight_norm")


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


class Written(RLCallback):
    """Keeps what is logged at every update, and all weights after it."""

    def __init__(self) -> None:
        self.scalars: dict[int, dict[str, float]] = {}
        self.weights: dict[int, dict[str, torch.Tensor]] = {}

    def on_train_start(self, trainer, pl_module) -> None:
        write = pl_module.log_scalars

        def keep(scalars) -> None:
            write(scalars)
            own = {tag: float(value) for tag, value in scalars.items() if tag.startswith("weight_")}
            self.scalars[pl_module.num_updates] = self.scalars.get(pl_module.num_updates, {}) | own

        pl_module.log_scalars = keep

    def on_update_end(self, agent, batch, metrics) -> None:
        self.weights[agent.num_updates] = {name: p.detach().clone() for name, p in agent.named_parameters()}


@pytest.mark.parametrize("before", [[], [WeightChange(every_n_updates=3)]], ids=["added", "changed"])
def test_one_that_joins_a_run_waits_for_a_whole_interval(before, tmp_path):
    """15 updates lie behind at frame 100: with a period of 4 an interval ends at 16, and the first whole one at 20."""
    fit_tiny(tmp_path, callbacks=before, max_frames=100)
    joining = [cls(every_n_updates=4, per_layer=False, modules=["encoder"]) for cls in (WeightChange, WeightNorm)]
    written = Written()
    fit_tiny(tmp_path, callbacks=[*joining, written], max_frames=124, ckpt_path="last")
    assert min(written.weights) == 16
    logged = {name: [n for n, own in written.scalars.items() if f"{name}/encoder" in own] for name in TAGS}
    assert logged == {"weight_change": [20], "weight_norm": [16, 20]}
    expected = by_hand(written.weights[20], written.weights[16], "encoder.")
    assert written.scalars[20]["weight_change/encoder"] == pytest.approx(expected, rel=1e-6)


def test_whether_an_interval_is_whole_is_in_the_checkpoint():
    probe, resumed = WeightChange(every_n_updates=4), WeightChange(every_n_updates=4)
    probe._is_part = True
    resumed.load_state_dict(probe.state_dict())
    assert resumed._is_part
