"""Rows and columns of single units, and nothing beside them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from plasticity_rl.nn.blocks import init_weights
from plasticity_rl.surgery import (
    absorb_units,
    clear_elements,
    copy_units,
    redraw_units,
    unit_columns,
    unit_rows,
    write_units,
    zero_columns,
    zero_units,
)

UNITS = torch.tensor([False, True, False, True])


def trained(layer: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)) + 3.0)
    return layer


MAKERS = [nn.Linear(5, 4), nn.Conv2d(2, 4, 3), nn.LayerNorm(4), nn.Linear(5, 4, bias=False)]


@pytest.mark.parametrize("layer", MAKERS, ids=["linear", "conv", "norm", "no bias"])
def test_fresh_rows_are_those_of_a_fresh_layer(layer):
    layer = trained(copy.deepcopy(layer))
    before, identities = copy.deepcopy(layer), [id(p) for p in layer.parameters()]
    reference = copy.deepcopy(layer)
    init_weights(reference, torch.Generator().manual_seed(3))
    redraw_units(layer, UNITS, init_weights, torch.Generator().manual_seed(3))
    assert [id(p) for p in layer.parameters()] == identities
    for name, parameter in layer.named_parameters():
        assert parameter.requires_grad
        for unit in range(4):
            source = reference if UNITS[unit] else before
            assert torch.equal(parameter[unit], dict(source.named_parameters())[name][unit])


def test_a_fresh_unit_has_bias_zero_whatever_the_agent_draws():
    def init(layer: nn.Module, generator: torch.Generator | None) -> None:
        nn.init.uniform_(layer.weight, 1, 2, generator=generator)
        nn.init.uniform_(layer.bias, 1, 2, generator=generator)

    layer = trained(nn.Linear(5, 4))
    redraw_units(layer, UNITS, init, torch.Generator().manual_seed(0))
    assert (layer.bias == 0).tolist() == UNITS.tolist()
    assert ((layer.weight[UNITS] >= 1) & (layer.weight[UNITS] <= 2)).all()


def test_the_generator_alone_is_drawn_from():
    state = torch.get_rng_state()
    redraw_units(nn.Linear(5, 4), UNITS, init_weights, torch.Generator().manual_seed(0))
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    nn.Linear(5, 4)
    assert torch.equal(torch.get_rng_state(), after), "only the construction of the layer above drew globally"


@pytest.mark.parametrize("layer", MAKERS, ids=["linear", "conv", "norm", "no bias"])
def test_copied_and_zeroed_rows(layer):
    source, layer = trained(copy.deepcopy(layer)), copy.deepcopy(layer)
    before = copy.deepcopy(layer)
    copy_units(source, layer, UNITS)
    for new, own, old in zip(layer.parameters(), source.parameters(), before.parameters(), strict=True):
        assert torch.equal(new[UNITS], own[UNITS])
        assert torch.equal(new[~UNITS], old[~UNITS])
    zero_units(layer, UNITS)
    for new, old in zip(layer.parameters(), before.parameters(), strict=True):
        assert not new[UNITS].any()
        assert torch.equal(new[~UNITS], old[~UNITS])


@pytest.mark.parametrize(
    ("weight", "inputs", "zeros"),
    [
        (torch.ones(3, 4), 4, [1, 3]),
        (torch.ones(3, 6), 4, [1, 3]),  # two inputs from elsewhere
        (torch.ones(3, 4, 2, 2), 4, [1, 3]),
        (torch.ones(3, 12), 12, [3, 4, 5, 9, 10, 11]),  # three pixels a channel
        (torch.ones(3, 14), 12, [3, 4, 5, 9, 10, 11]),
    ],
    ids=["linear", "with an action", "conv", "flattened", "flattened with an action"],
)
def test_columns_by_hand(weight, inputs, zeros):
    zero_columns(weight, UNITS, inputs)
    assert [i for i in range(weight.shape[1]) if not weight[:, i].any()] == zeros
    assert all(weight[:, i].all() for i in range(weight.shape[1]) if i not in zeros)


def test_columns_against_a_real_flatten():
    """Which columns a channel meets, found by sending one pixel of one channel at a time through ``flatten``."""
    weight = torch.ones(2, 4 * 3 * 5)
    expected = set()
    for channel in range(4):
        for row in range(3):
            for column in range(5):
                image = torch.zeros(1, 4, 3, 5)
                image[0, channel, row, column] = 1
                if UNITS[channel]:
                    expected.add(int(image.flatten(1).argmax()))
    mask = unit_columns(weight, UNITS, weight.shape[1])
    assert set(mask[0].nonzero().flatten().tolist()) == expected


@pytest.mark.parametrize(("width", "inputs"), [(10, 10), (3, 4)])
def test_inputs_that_cannot_be_made_of_the_units_are_refused(width, inputs):
    with pytest.raises(ValueError, match="cannot be made of 4 units"):
        unit_columns(torch.ones(2, width), UNITS, inputs)


@pytest.mark.parametrize("make", [torch.optim.Adam, lambda p: torch.optim.SGD(p, momentum=0.9)], ids=["adam", "sgd"])
def test_moments_of_single_elements(make):
    layer = trained(nn.Conv2d(2, 4, 3))
    optimizer = make(layer.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        sum(p.square().sum() for p in layer.parameters()).backward()
        optimizer.step()
    before = copy.deepcopy(optimizer.state[layer.weight])
    bias = copy.deepcopy(optimizer.state[layer.bias])
    clear_elements(optimizer, layer.weight, unit_rows(layer.weight, UNITS))
    clear_elements(optimizer, layer.weight, unit_columns(layer.weight, torch.tensor([True, False]), 2))
    moments = [key for key, value in before.items() if value.dim()]
    assert moments
    for key, value in optimizer.state[layer.weight].items():
        if key in moments:
            assert not value[UNITS].any()
            assert not value[:, 0].any()
            assert torch.equal(value[~UNITS][:, 1], before[key][~UNITS][:, 1])
            assert value[~UNITS][:, 1].all()
        else:
            assert torch.equal(value, before[key]), "the step count belongs to all elements"
    assert all(torch.equal(optimizer.state[layer.bias][key], value) for key, value in bias.items())


def test_a_parameter_of_one_element_is_not_taken_for_its_step_count():
    parameter = nn.Parameter(torch.ones(()))
    optimizer = torch.optim.Adam([parameter])
    parameter.grad = torch.ones(())
    optimizer.step()
    clear_elements(optimizer, parameter, torch.tensor(True))
    assert float(optimizer.state[parameter]["step"]) == 1


def test_strangers_are_refused_and_fresh_parameters_left_alone():
    layer = nn.Linear(5, 4)
    optimizer = torch.optim.Adam(layer.parameters())
    clear_elements(optimizer, layer.weight, unit_rows(layer.weight, UNITS))
    assert dict(optimizer.state) == {}
    with pytest.raises(KeyError, match=r"shape \(4,\) is not in this optimizer"):
        clear_elements(optimizer, nn.Parameter(torch.ones(4)), UNITS)


def test_write_units_by_hand():
    layer = nn.Linear(2, 3)
    before = copy.deepcopy(layer)
    rows = {"weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "bias": torch.tensor([5.0, 6.0])}
    write_units(layer, torch.tensor([2, 0]), rows)
    assert layer.weight[2].tolist() == [1.0, 2.0]
    assert layer.weight[0].tolist() == [3.0, 4.0]
    assert (layer.bias[2], layer.bias[0]) == (5.0, 6.0)
    assert torch.equal(layer.weight[1], before.weight[1])
    assert layer.bias[1] == before.bias[1]


def test_absorb_units_by_hand():
    """Units 1 and 3 of four, means 2 and 10; input 5 is an action. Row 0: 2 * 2 + 4 * 10 = 44; row 1: -2 + 5."""
    layer = nn.Linear(5, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0, 7.0], [0.0, -1.0, 9.0, 0.5, 7.0]]))
        layer.bias.copy_(torch.tensor([100.0, 200.0]))
    weight = layer.weight.detach().clone()
    absorb_units(layer, UNITS, torch.tensor([1000.0, 2.0, 1000.0, 10.0]), 4)
    assert layer.bias.tolist() == [144.0, 203.0]
    assert torch.equal(layer.weight, weight)


def test_absorb_flattened_units_by_hand():
    """Channels 1 and 3 of two positions each: 1 * 2 - 1 * 0 and 3 * 5 + 1 * 1. Their means over space: 0 and 12."""
    layer = nn.Linear(9, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[9.0, 9.0, 1.0, -1.0, 9.0, 9.0, 3.0, 1.0, 7.0]]))
        layer.bias.zero_()
    absorb_units(layer, UNITS, torch.tensor([4.0, 4.0, 2.0, 0.0, 4.0, 4.0, 5.0, 1.0]), 8)
    assert layer.bias.tolist() == [18.0]


@pytest.mark.parametrize("flatten", [False, True], ids=["conv", "linear behind flatten"])
def test_a_unit_of_constant_output_can_be_absorbed(flatten):
    """Against the forward pass: without its weights and with the new bias the layer gives what it gave."""
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(3, 4, 5, 5, generator=generator)
    images[:, 1], images[:, 3] = 0.7, -0.2
    layer = nn.Linear(4 * 25, 6) if flatten else nn.Conv2d(4, 6, 3)
    inputs = images.flatten(1) if flatten else images
    with torch.no_grad():
        before = layer(inputs)
        absorb_units(layer, UNITS, torch.tensor([5.0, 0.7, 5.0, -0.2]), inputs.shape[1])
        zero_columns(layer.weight, UNITS, inputs.shape[1])
        torch.testing.assert_close(layer(inputs), before, rtol=1e-5, atol=1e-5)


def test_a_layer_without_bias_absorbs_nothing():
    layer = nn.Linear(4, 2, bias=False)
    before = layer.weight.detach().clone()
    absorb_units(layer, UNITS, torch.ones(4), 4)
    assert torch.equal(layer.weight, before)
