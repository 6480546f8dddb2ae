"""WeightNorm against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import fit_tiny

from callbacks import WeightNorm


def test_logged_values_are_those_of_the_weights_after_the_last_update(tmp_path):
    agent = fit_tiny(tmp_path, callbacks=[WeightNorm(every_n_updates=1)], max_frames=80)
    logged = {tag: float(value) for tag, value in agent.latest.items() if tag.startswith("weight_norm/")}
    modules = ["encoder", *(f"encoder/convnet.{i}" for i in (0, 2, 4, 6)), "critic", "critic/trunk.1", "critic/Q1.4"]
    assert len(logged) == (1 + 4) + (1 + 5) + (1 + 8)
    for name in modules:
        top, _, layer = name.partition("/")
        parameters = agent.module(f"{top}.{layer}".rstrip(".")).parameters()
        joined = np.concatenate([p.detach().double().numpy().ravel() for p in parameters])
        assert logged[f"weight_norm/{name}"] == pytest.approx(np.linalg.norm(joined), rel=1e-6)


def test_only_modules_and_a_single_layer_as_module(tmp_path):
    probe = WeightNorm(every_n_updates=1, modules=["critic.Q1", "encoder.convnet.0"], per_layer=False)
    one = fit_tiny(tmp_path / "1", callbacks=[probe], max_frames=60)
    assert {tag for tag in one.latest if "norm" in tag} == {"weight_norm/critic.Q1", "weight_norm/encoder.convnet.0"}
    probe = WeightNorm(every_n_updates=1, modules=["encoder.convnet.0"])
    two = fit_tiny(tmp_path / "2", callbacks=[probe], max_frames=60)
    assert {tag for tag in two.latest if "norm" in tag} == {"weight_norm/encoder.convnet.0"}
