"""Dormancy, overlap and unit rates on activations made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from plasticity_rl.measures import (
    any_input_rate,
    dormancy_scores,
    dormant_mask,
    gradient_dormancy_scores,
    linearized_rate,
    mean_rate,
    overlap_coefficient,
    share_above,
    unit_rates,
)
from plasticity_rl.measures.dormancy import linearized_mask, rates_of_units
from plasticity_rl.nn.activations import CReLU

NAN, INF = float("nan"), float("inf")


def test_scores_are_means_over_inputs_relative_to_the_layer():
    # Means of |h|: 2, 0, 1, 1; their mean is 1.
    activation = torch.tensor([[4.0, 0.0, -1.0, 2.0], [0.0, 0.0, 1.0, 0.0]])
    assert dormancy_scores(activation).tolist() == pytest.approx([2.0, 0.0, 1.0, 1.0])
    assert dormancy_scores(activation).dtype == torch.float32


def test_a_channel_is_one_unit_averaged_over_space():
    activation = torch.zeros(2, 3, 2, 2)
    activation[0, 0] = torch.tensor([[1.0, 2.0], [3.0, 2.0]])  # mean over 8 elements: 1
    activation[:, 1] = 2.0  # 2
    assert dormancy_scores(activation).tolist() == pytest.approx([1.0, 2.0, 0.0])


def test_scores_agree_with_numpy():
    activation = torch.randn(7, 5, 3, 4, generator=torch.Generator().manual_seed(1))
    mean = np.abs(activation.double().numpy()).mean(axis=(0, 2, 3))
    assert dormancy_scores(activation).numpy() == pytest.approx(mean / (mean.mean() + 1e-9), rel=1e-5)


def test_a_dead_layer_is_all_dormant_and_a_single_unit_scores_one():
    assert dormancy_scores(torch.zeros(4, 3)).tolist() == [0.0, 0.0, 0.0]
    assert dormant_mask(torch.zeros(4, 3), 0.0).tolist() == [True, True, True]
    assert dormancy_scores(torch.full((4, 1), 5.0)).tolist() == pytest.approx([1.0])


def test_the_threshold_itself_is_dormant():
    # Means 0, 1, 7: the layer's mean is 8/3, the scores are 0, 3/8 and 21/8.
    activation = torch.tensor([[0.0, 1.0, 7.0]])
    assert dormant_mask(activation, 0.0).tolist() == [True, False, False]
    assert dormant_mask(activation, 0.375).tolist() == [True, True, False]
    assert dormant_mask(activation, 3.0).tolist() == [True, True, True]


def test_a_unit_that_fires_once_is_dormant_by_mean_and_not_by_zero():
    activation = torch.ones(100, 2)
    activation[:, 0] = 0.0
    activation[3, 0] = 1.0
    assert dormant_mask(activation, 0.025).tolist() == [True, False]
    assert dormant_mask(activation, 0.0).tolist() == [False, False]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1, 1, 0, 0], [1, 1, 1, 0], 1.0),  # 2 / min(2, 3)
        ([1, 0, 1, 1], [1, 1, 0, 0], 0.5),  # 1 / min(3, 2)
        ([1, 0, 0, 0], [0, 1, 0, 0], 0.0),
        ([0, 0, 0, 0], [1, 1, 0, 0], 0.0),
        ([0, 0, 0, 0], [0, 0, 0, 0], 0.0),
        ([1, 1, 1, 1], [1, 1, 1, 1], 1.0),
    ],
)
def test_overlap_coefficient(one, other, expected):
    one, other = torch.tensor(one, dtype=torch.bool), torch.tensor(other, dtype=torch.bool)
    assert float(overlap_coefficient(one, other)) == float(overlap_coefficient(other, one)) == expected


def test_overlap_of_different_layers_is_refused():
    with pytest.raises(ValueError, match="masks of different shapes"):
        overlap_coefficient(torch.ones(3, dtype=torch.bool), torch.ones(1, dtype=torch.bool))


def test_unit_rates_count_units_not_elements():
    # Shares of inputs with h > 0: 1, 1/2, 1/4, 0 in the hidden layer; 1/8 and 0 in the convolution.
    hidden = torch.tensor([[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    convolution = torch.zeros(4, 2, 1, 2)
    convolution[2, 0, 0, 1] = 0.1
    layers = [hidden, convolution]
    assert float(any_input_rate(layers)) == pytest.approx(4 / 6)
    assert float(mean_rate(layers, 0.0)) == pytest.approx(4 / 6)
    assert float(mean_rate(layers, 0.2)) == pytest.approx(3 / 6)
    assert float(mean_rate(layers, 0.25)) == pytest.approx(2 / 6)  # more than, not at least
    assert float(mean_rate(layers, 0.5)) == pytest.approx(1 / 6)


def test_any_input_rate_is_one_minus_the_dormant_share_behind_a_relu():
    activation = torch.randn(6, 40, generator=torch.Generator().manual_seed(2)).sub(1.2).relu()
    dormant = dormant_mask(activation, 0.0).float().mean()
    assert 0.05 < float(dormant) < 0.95
    assert float(any_input_rate([activation])) == pytest.approx(1.0 - float(dormant))


def test_rates_of_units_are_exact_at_the_ends():
    convolution = torch.zeros(3, 3, 5, 5)
    convolution[:, 1] = 1e-30
    convolution[2, 2, 4, 4] = float("nan")
    assert unit_rates(convolution).tolist() == [0.0, 1.0, 0.0]
    assert unit_rates(torch.tensor([[1.0, -1.0], [2.0, 3.0], [4.0, 0.0]])).tolist() == pytest.approx([1.0, 1 / 3])
    assert float(share_above([torch.tensor([1.0, 1 / 3]), torch.tensor([0.0])], 1 / 3)) == pytest.approx(1 / 3)


def test_the_rate_of_a_unit_with_two_outputs_is_that_of_the_busier_one():
    """Units (1, -1), (-1, -1), (0, 0) behind a CReLU, on two inputs."""
    output = CReLU()(torch.tensor([[1.0, -1.0, 0.0], [-1.0, -1.0, 0.0]]))
    assert rates_of_units(unit_rates(output), CReLU()).tolist() == [0.5, 1.0, 0.0]
    assert linearized_mask(output, CReLU()).tolist() == [False, True, False]
    assert rates_of_units(torch.tensor([0.25, 1.0]), nn.ReLU()).tolist() == [0.25, 1.0]


def test_linearized_units_are_above_zero_on_every_input_and_position():
    hidden = torch.tensor([[1.0, 1.0, 0.0], [2.0, 0.0, 0.0]])  # the first unit of three
    convolution = torch.ones(2, 2, 2, 2)
    convolution[1, 0, 1, 0] = 0.0  # the second channel of two
    assert float(linearized_rate([hidden])) == pytest.approx(1 / 3)
    assert float(linearized_rate([convolution])) == pytest.approx(1 / 2)
    assert float(linearized_rate([hidden, convolution])) == pytest.approx(2 / 5)
    assert float(linearized_rate([torch.zeros(3, 4)])) == 0.0
    assert float(linearized_rate([torch.ones(3, 1)])) == 1.0


def test_gradient_scores_are_means_of_absolute_gradients_relative_to_the_layer():
    # Means of |g|: 3e-12, 0, 1e-12, 0; their mean is 1e-12. Tiny gradients are scored like large ones.
    gradient = torch.tensor([[4.0, 0.0, -1.0, 0.0], [-2.0, 0.0, 1.0, 0.0]], dtype=torch.float64) * 1e-12
    assert gradient_dormancy_scores(gradient).tolist() == pytest.approx([3.0, 0.0, 1.0, 0.0])
    assert gradient_dormancy_scores(torch.zeros(4, 3)).tolist() == [0.0, 0.0, 0.0]
    assert gradient_dormancy_scores(torch.full((4, 1), -5.0)).tolist() == pytest.approx([1.0])
    convolution = torch.zeros(2, 2, 2, 2)
    convolution[0, 0], convolution[:, 1] = -4.0, 1.0  # means 2 and 1, of the layer 1.5
    assert gradient_dormancy_scores(convolution).tolist() == pytest.approx([4 / 3, 2 / 3])


MEASURES = [
    dormancy_scores,
    gradient_dormancy_scores,
    lambda h: dormant_mask(h, 0.1),
    lambda h: any_input_rate([h]),
    lambda h: mean_rate([h], 0.1),
    lambda h: linearized_rate([h]),
]


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_not_finite_is_refused(measure, bad):
    activation = torch.ones(3, 4)
    activation[1, 2] = bad
    with pytest.raises(ValueError, match="the (activations|gradients) hold NaN or infinity"):
        measure(activation)


@pytest.mark.parametrize("shape", [(3,), (0, 4), (4, 0)])
def test_a_shape_without_units_is_refused(shape):
    with pytest.raises(ValueError, match="must be .batch, units"):
        dormancy_scores(torch.ones(shape))


def test_nothing_is_changed_and_no_gradient_is_kept():
    activation = torch.randn(4, 4, requires_grad=True)
    before = activation.detach().clone()
    assert not dormancy_scores(activation).requires_grad
    assert torch.equal(activation, before)
