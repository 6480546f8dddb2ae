"""DormantUnits against scores recomputed from weights kept aside."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import fit_tiny

from callbacks import DormantUnits
from plasticity_rl.callback import RLCallback


class Recompute(RLCallback):
    """Keeps scores recomputed layer by layer, with what was logged. Its name sorts after the probe's."""

    def __init__(self) -> None:
        self.results: list[tuple[dict[str, np.ndarray], dict[str, float]]] = []

    @torch.no_grad()
    def on_update_end(self, agent, batch, metrics) -> None:
        batch = agent.probe_batch(12)
        outputs, x = {}, batch["pixels"].float() / 255.0 - 0.5
        for i, layer in enumerate(agent.encoder.convnet):
            x = layer(x)
            if i % 2:
                outputs[f"encoder/convnet.{i}"] = x
        joint = torch.cat([agent.critic.trunk(x.flatten(1)), batch["action"]], -1)
        for head in ("Q1", "Q2"):
            outputs[f"critic/{head}.1"] = getattr(agent.critic, head)[:2](joint)
            outputs[f"critic/{head}.3"] = getattr(agent.critic, head)[:4](joint)
        scores = {}
        for name, output in outputs.items():
            mean = np.abs(output.double().numpy()).mean(axis=(0, *range(2, output.ndim)))
            scores[name] = mean / (mean.mean() + 1e-9)
        logged = {tag: float(v) for tag, v in agent.latest.items() if tag.startswith("dormant")}
        self.results.append((scores, logged))


TAUS = (0.0, 0.3, 0.8)


@pytest.fixture(scope="module")
def recomputed(tmp_path_factory) -> Recompute:
    watcher = Recompute()
    probe = DormantUnits(every_n_updates=1, modules=["encoder", "critic"], taus=TAUS, batch_size=12)
    fit_tiny(tmp_path_factory.mktemp("run"), callbacks=[probe, watcher], max_frames=120)
    assert len(watcher.results) == 20
    return watcher


def test_shares_of_layers_and_modules(recomputed):
    values = set()
    for scores, logged in recomputed.results:
        for tau in TAUS:
            for name, score in scores.items():
                assert logged[f"dormant/{name}/tau_{tau}"] == pytest.approx((score <= tau).mean())
            for module, units in (("encoder", 4 * 4), ("critic", 4 * 16)):
                own = np.concatenate([score for name, score in scores.items() if name.startswith(module)])
                assert len(own) == units
                assert logged[f"dormant/{module}/tau_{tau}"] == pytest.approx((own <= tau).mean())
                values.add(logged[f"dormant/{module}/tau_{tau}"])
    assert len(values) > 5, "the values must move for this to be a test"


def test_overlap_with_the_measurement_before(recomputed):
    assert not any(tag.startswith("dormant_overlap") for tag in recomputed.results[0][1])
    overlaps = set()
    for (before, _), (now, logged) in zip(recomputed.results, recomputed.results[1:], strict=False):
        for tau in TAUS:
            old, new = (
                np.concatenate([score <= tau for name, score in scores.items() if name.startswith("critic")])
                for scores in (before, now)
            )
            expected = (old & new).sum() / max(min(old.sum(), new.sum()), 1)
            assert logged[f"dormant_overlap/critic/tau_{tau}"] == pytest.approx(expected)
            overlaps.add(round(float(expected), 6))
    assert len(overlaps) > 2


def test_overlap_with_every_unit_that_was_dormant_before(recomputed):
    assert not any(tag.startswith("dormant_overlap_history") for tag in recomputed.results[0][1])
    differs = 0
    for tau in TAUS:
        history = np.zeros(4 * 4, dtype=bool)
        for index, (scores, logged) in enumerate(recomputed.results):
            now = np.concatenate([score <= tau for name, score in scores.items() if name.startswith("encoder")])
            if index:
                expected = (now & history).sum() / max(min(now.sum(), history.sum()), 1)
                assert logged[f"dormant_overlap_history/encoder/tau_{tau}"] == pytest.approx(expected)
                differs += logged[f"dormant_overlap/encoder/tau_{tau}"] != pytest.approx(expected)
            history |= now
    assert differs, "the two overlaps must differ for this to be a test"


def test_a_dead_layer_is_dormant_at_every_threshold(tmp_path):
    class Kill(RLCallback):
        def on_train_start(self, trainer, pl_module) -> None:
            torch.nn.init.constant_(pl_module.critic.Q1[2].bias, -1000.0)

    probe = DormantUnits(every_n_updates=2, modules=["critic"], batch_size=12)
    latest = fit_tiny(tmp_path, callbacks=[Kill(), probe], max_frames=80).latest
    for tau in (0.0, 0.025, 0.1):
        assert float(latest[f"dormant/critic/Q1.3/tau_{tau}"]) == 1.0
        assert float(latest[f"dormant/critic/tau_{tau}"]) >= 0.25
        assert float(latest[f"dormant_overlap/critic/tau_{tau}"]) >= 0.9
        assert float(latest[f"dormant_overlap_history/critic/tau_{tau}"]) >= 0.9


def test_dormant_sets_of_an_earlier_run_are_forgotten(tmp_path):
    probe = DormantUnits(every_n_updates=1, batch_size=12)
    fit_tiny(tmp_path / "1", callbacks=[probe], max_frames=60)
    assert probe.state_dict()["previous"].keys() == probe.state_dict()["history"].keys() != set()
    probe.events.seen = 0
    agent = fit_tiny(tmp_path / "2", callbacks=[probe], max_frames=44)
    assert agent.num_updates == 1
    assert not any(tag.startswith("dormant_overlap") for tag in agent.latest)


def test_dormant_sets_of_other_units_in_an_older_checkpoint_are_forgotten(tmp_path):
    probe = DormantUnits(every_n_updates=1, modules=["critic"], batch_size=12)
    agent = fit_tiny(tmp_path, callbacks=[probe], max_frames=60)
    state = probe.state_dict()
    sets = ("previous", "history")
    old = {name: {key: torch.cat([mask, mask]) for key, mask in state[name].items()} for name in sets}
    probe.load_state_dict({**state, **old})
    batch = agent.probe_batch(12)
    assert not any(tag.startswith("dormant_overlap") for tag in probe.measure(agent, batch, batch))
    again = probe.measure(agent, batch, batch)
    assert again["dormant_overlap_history/critic/tau_0.1"] in (0.0, 1.0), "of one set twice"
