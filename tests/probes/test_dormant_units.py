"""DormantUnits against scores recomputed from weights kept aside."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bare import BareAgent
from helpers import fit_tiny

from callbacks import CReLU, DeepFourierFeatures, DormantUnits, ReDo
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


def measured(agent: BareAgent, probe: DormantUnits) -> dict[str, float]:
    batch = agent.probe_batch(8)
    return {tag: float(value) for tag, value in probe.measure(agent, batch, batch).items()}


def test_a_crelu_unit_that_is_positive_on_every_input_is_not_dormant():
    """One of its two outputs is always zero. Units put out their biases: of |x| one is 0, one 0.1, ten are 1."""
    probe = DormantUnits(modules=["critic"], taus=[0.0, 0.11, 0.12], batch_size=8)
    agent = BareAgent(CReLU(modules=["critic"]), probe)
    with torch.no_grad():
        agent.critic.Q1[0].weight.zero_()
        agent.critic.Q1[0].bias.copy_(torch.tensor([0.0, 0.1, *[1.0] * 5, *[-1.0] * 5]))
    found = measured(agent, probe)
    # The score of 0.1 is 0.1 / (10.1 / 12) = 0.1188.
    shares = [found[f"dormant/critic/Q1.1/tau_{tau}"] for tau in probe.taus]
    assert shares == pytest.approx([1 / 12, 1 / 12, 2 / 12])
    assert probe.state_dict()["previous"]["critic/tau_0.0"].shape == (4 * 12,), "four layers of twelve units"


def test_a_fourier_unit_whose_sine_is_always_zero_is_not_dormant():
    probe = DormantUnits(modules=["critic"], taus=[0.0, 0.7], batch_size=8)
    agent = BareAgent(DeepFourierFeatures(modules=["critic"]), probe)
    with torch.no_grad():
        agent.critic.Q1[0].weight.zero_()
        agent.critic.Q1[0].bias.zero_()
    found = measured(agent, probe)
    assert [found[f"dormant/critic/{tag}"] for tag in ("Q1.1/tau_0.0", "tau_0.0", "Q1.1/tau_0.7")] == [0.0] * 3


@pytest.mark.parametrize("architecture", [CReLU, DeepFourierFeatures])
def test_units_are_those_that_interventions_find(architecture):
    names, taus = ["encoder", "critic"], [0.0, 0.5, 0.8, 0.95]
    probe = DormantUnits(modules=names, taus=taus, batch_size=8)
    agent = BareAgent(architecture(modules=names), probe)
    found, some = measured(agent, probe), 0
    for tau in taus:
        dormant = ReDo(modules=names, tau=tau, every_n_updates=1, batch_size=8).find_dormant(agent)
        for name, layers in dormant.items():
            joined = torch.cat([units for _, units in layers.values()])
            assert torch.equal(probe.state_dict()["previous"][f"{name}/tau_{tau}"], joined)
            some += 0 < int(joined.sum()) < len(joined)
            for path, (_, units) in layers.items():
                tag = f"dormant/{path.replace('.', '/', 1)}/tau_{tau}"
                assert found[tag] == pytest.approx(float(units.float().mean()))
    assert some, "a threshold must divide the units for this to be a test"
