"""CReLU: shapes, first weights, what reads its outputs."""

from __future__ import annotations

import pytest
import torch
from built import assert_learns, assert_target_is_a_twin, changed, drqv2, shapes, some_batch

from callbacks import CReLU, PruneDormant
from plasticity_rl import UserError
from plasticity_rl.callback.unit_interventions import detach_readers


def test_keeping_the_units_doubles_the_fan_in():
    agent, plain = drqv2(CReLU()), drqv2()
    wide = {"critic.Q1.2.weight": (6, 12), "critic.Q1.4.weight": (1, 12)}
    assert {name: shapes(agent)[name] for name in wide} == wide
    assert {n for n in changed(agent, plain) if n.startswith("critic.")} == {
        f"critic.{q}.{i}.weight" for q in ("Q1", "Q2") for i in (2, 4)
    }
    assert_target_is_a_twin(agent)
    assert_learns(agent)


def test_keeping_the_inputs_halves_the_units():
    agent, plain = drqv2(CReLU(keep="inputs")), drqv2()
    assert shapes(agent)["critic.Q1.0.weight"] == (3, 9)
    assert shapes(agent)["critic.Q1.2.weight"] == (3, 6)
    assert shapes(agent)["critic.Q1.4.weight"] == (1, 6)
    assert "critic.Q1.4.weight" not in changed(agent, plain), "it reads as much as before"
    assert_target_is_a_twin(agent)
    assert_learns(agent)


def test_the_next_layer_is_initialised_for_its_fan_in():
    """Rows of an orthogonal (6, 12) matrix have norm 1, biases are zero: the agent's own initialisation."""
    layer = drqv2(CReLU()).critic.Q1[2]
    torch.testing.assert_close(layer.weight @ layer.weight.T, torch.eye(6), atol=1e-5, rtol=0)
    assert bool((layer.bias == 0).all())


def test_the_encoder_passes_both_parts_to_all_trunks():
    """4 channels of 3 x 3 pixels, twice: 72 inputs."""
    agent = drqv2(CReLU(modules=["encoder"]))
    for net in ("actor", "critic", "critic_target"):
        assert shapes(agent)[f"{net}.trunk.0.weight"] == (7, 72)
    features = agent.encoder(some_batch(agent)["pixels"])
    assert features.shape == (8, 72)
    assert float((features > 0).float().mean()) == pytest.approx(0.5, abs=0.02), "each unit has one active half"
    assert_learns(agent)


def test_units_know_both_their_columns():
    agent = drqv2(CReLU(modules=["encoder", "critic.Q1"]))
    last = agent.units("encoder")[-1]
    assert (last.size, last.copies, [reader.inputs for reader in last.readers]) == (4, 2, [72, 72, 72])
    units = torch.tensor([False, True, False, False])
    detach_readers(agent, last, units)
    silent = (agent.critic.trunk[0].weight == 0).all(0).nonzero().flatten().tolist()
    assert silent == [*range(9, 18), *range(45, 54)], "channel 1 of the positive and of the negative parts"
    agent.encoder.convnet[6].weight.data[1] *= 7.0
    before = agent.actor(agent.encoder(some_batch(agent)["pixels"]))
    agent.encoder.convnet[6].weight.data[1] *= -3.0
    assert torch.equal(agent.actor(agent.encoder(some_batch(agent)["pixels"])), before)


def test_dormant_units_can_be_pruned(tmp_path):
    from helpers import fit_tiny

    agent = fit_tiny(tmp_path, callbacks=[CReLU(), PruneDormant(tau=0.5, every_n_updates=3, modules=["critic"])])
    assert agent.num_updates > 20


def test_bad_arguments_are_refused():
    with pytest.raises(UserError, match=r"CReLU.keep='both' must be one of \['units', 'inputs'\]"):
        CReLU(keep="both")
