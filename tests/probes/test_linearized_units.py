"""LinearizedUnits against activations recomputed by hand, and on networks whose units are known."""

from __future__ import annotations

import pytest
import torch
from helpers import fit_tiny

from callbacks import CReLU, LinearizedUnits
from plasticity_rl.callback import RLCallback


class Recompute(RLCallback):
    """Recomputes the encoder's shares unit by unit at every update; the test looks at the last ones."""

    @torch.no_grad()
    def on_update_end(self, agent, batch, metrics) -> None:
        x = agent.probe_batch(5)["pixels"].float() / 255.0 - 0.5
        self.expected, units = {}, []
        for index, layer in enumerate(agent.encoder.convnet):
            x = layer(x)
            if index % 2:
                own = [all(float(value) > 0 for value in x[:, unit].flatten()) for unit in range(x.shape[1])]
                self.expected[f"linearized/encoder/convnet.{index}"] = sum(own) / len(own)
                units += own
        self.expected["linearized/encoder"] = sum(units) / len(units)


class Bright(RLCallback):
    """Lets some channels of the encoder be on everywhere."""

    def on_train_start(self, trainer, pl_module) -> None:
        with torch.no_grad():
            for layer, channels in ((0, 3), (4, 1)):
                pl_module.encoder.convnet[layer].bias[:channels] = 50.0


def test_logged_values_are_those_recomputed_by_hand(tmp_path):
    watcher = Recompute()
    probe = LinearizedUnits(every_n_updates=1, modules=["encoder"], batch_size=5)
    agent = fit_tiny(tmp_path, callbacks=[Bright(), probe, watcher], max_frames=80)
    logged = {tag: float(value) for tag, value in agent.latest.items() if tag.startswith("linearized/")}
    assert logged == pytest.approx(watcher.expected)
    assert 0 < logged["linearized/encoder"] < 1


@pytest.mark.parametrize(("bias", "expected"), [(100.0, 1.0), (-100.0, 0.0)])
def test_units_that_are_always_on_and_always_off(bias, expected, tmp_path):
    class Push(RLCallback):
        def on_train_start(self, trainer, pl_module) -> None:
            torch.nn.init.constant_(pl_module.critic.Q1[2].bias, bias)

    probe = LinearizedUnits(every_n_updates=1, modules=["critic.Q1"], batch_size=12)
    latest = fit_tiny(tmp_path, callbacks=[Push(), probe], max_frames=60).latest
    assert float(latest["linearized/critic.Q1/3"]) == expected
    module = (float(latest["linearized/critic.Q1/1"]) + expected) / 2  # two layers of 16 units
    assert float(latest["linearized/critic.Q1"]) == pytest.approx(module)


@pytest.mark.parametrize("bias", [100.0, -100.0])
def test_with_crelu_a_unit_counts_whose_either_output_is_always_on(bias, tmp_path):
    class Push(RLCallback):
        def on_train_start(self, trainer, pl_module) -> None:
            torch.nn.init.constant_(pl_module.critic.Q1[0].bias[:4], bias)  # a quarter of 16 units

    probe = LinearizedUnits(every_n_updates=1, modules=["critic.Q1"], batch_size=12)
    latest = fit_tiny(tmp_path, callbacks=[CReLU(modules=["critic"]), Push(), probe], max_frames=44).latest
    assert float(latest["linearized/critic.Q1/1"]) >= 0.25
    assert float(latest["linearized/critic.Q1"]) >= 0.125


def test_layers_can_be_left_out(tmp_path):
    probe = LinearizedUnits(every_n_updates=1, per_layer=False, batch_size=4)
    latest = fit_tiny(tmp_path, callbacks=[probe], max_frames=44).latest
    found = {tag for tag in latest if tag.startswith("linearized/")}
    assert found == {f"linearized/{name}" for name in ("encoder", "actor", "critic")}
