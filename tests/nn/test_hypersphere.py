"""Layers on the unit hypersphere, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from plasticity_rl.nn.hypersphere import Nudge, OnSphere, Scale, Shift, SphericalResidual, unit_vectors
from plasticity_rl.nn.units import unit_layers
from plasticity_rl.surgery import reinitialize, resized


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values])


def test_unit_vectors_and_zero():
    assert unit_vectors(row(3.0, 4.0)).tolist()[0] == pytest.approx([0.6, 0.8])
    assert OnSphere()(row(0.0, 0.0)).tolist() == [[0.0, 0.0]]


def test_the_shift_keeps_the_length_of_a_vector():
    """(0, 4) and 3: of norm 5; (0, 0) and 3: the constant alone."""
    assert Shift(3.0)(row(0.0, 4.0)).tolist()[0] == pytest.approx([0.0, 0.8, 0.6])
    assert Shift(3.0)(row(0.0, 0.0)).tolist()[0] == pytest.approx([0.0, 0.0, 1.0])


def test_a_scale_multiplies_by_its_first_value_and_has_a_weight_of_another():
    scale = Scale(2, first=0.5, start=0.1)
    assert scale.weight.tolist() == pytest.approx([0.1, 0.1])
    assert scale(row(2.0, 4.0)).tolist()[0] == pytest.approx([1.0, 2.0])
    with torch.no_grad():
        scale.weight[1] = 0.2
    assert scale(row(2.0, 4.0)).tolist()[0] == pytest.approx([1.0, 4.0])
    wider = resized(scale, 3, 3)
    assert (wider.first, wider.start, len(wider.weight)) == (0.5, 0.1, 3)
    reinitialize(scale, lambda *_: None, torch.Generator())
    assert scale.weight.tolist() == pytest.approx([0.1, 0.1])


def test_a_block_goes_a_part_of_the_way():
    """From (1, 0) to f(x) = (0, 1), by 1/4 in the first and 1/2 in the second number: (3/4, 1/2), normalised."""
    turn = nn.Linear(2, 2, bias=False)
    step = Scale(2, 0.25, 0.25)
    with torch.no_grad():
        turn.weight.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        step.weight[1] = 0.5
    block = SphericalResidual(turn, OnSphere(), step=step)
    norm = (0.75**2 + 0.5**2) ** 0.5
    assert block(row(1.0, 0.0)).tolist()[0] == pytest.approx([0.75 / norm, 0.5 / norm])


def test_units_have_a_scale_of_their_own_and_are_read_through_the_nudge():
    maker, scale, reader = nn.Linear(2, 4, bias=False), Scale(4, 1.0, 1.0), nn.Linear(4, 2, bias=False)
    net = nn.ModuleDict({"b": SphericalResidual(maker, scale, nn.ReLU(), Nudge(), reader, step=Scale(2, 1.0, 1.0))})
    (layer,) = unit_layers(net, "net", [net["b"][2]])
    assert layer.makers == (maker, scale)
    assert [(one.layer, one.inputs) for one in layer.readers] == [(reader, 4)]
