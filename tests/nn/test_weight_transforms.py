"""Layers that compute with a function of their weight."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from plasticity_rl.errors import UserError
from plasticity_rl.nn.weight_transforms import FixedMask, SpectralNormalization, add_transform


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_transformed_layer_keeps_its_parameters_and_its_kind():
    layer = nn.Linear(3, 2)
    before = dict(layer.named_parameters())
    add_transform(layer, FixedMask(torch.tensor([[True, False, True], [False, True, True]])))
    assert {name: id(p) for name, p in layer.named_parameters()} == {name: id(p) for name, p in before.items()}
    assert isinstance(layer, nn.Linear)


def test_a_mask_by_hand():
    """Row 0 keeps 1 and 3 of (1, 2, 3), row 1 keeps 5 and 6 of (4, 5, 6); with x = (1, 1, 1) and bias 0: 4 and 11."""
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2, 3], [4, 5, 6]]))
        layer.bias.zero_()
    add_transform(layer, FixedMask(torch.tensor([[True, False, True], [False, True, True]])))
    assert layer(torch.ones(3)).tolist() == [4.0, 11.0]
    layer(torch.ones(3)).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.tolist() == [[1, 0, 1], [0, 1, 1]]


@pytest.mark.parametrize("layer", [nn.Linear(7, 5), nn.Conv2d(3, 4, 3, stride=2)], ids=["linear", "conv"])
def test_spectral_normalisation_agrees_with_the_svd_and_with_torch(layer):
    weight = layer.weight.detach().clone()
    x = torch.randn((2, 7) if isinstance(layer, nn.Linear) else (2, 3, 9, 9))
    sigma = torch.linalg.matrix_norm(weight.flatten(1), 2)
    expected = (layer(x) - layer.bias.view(-1, *[1] * (x.dim() - 2))) / sigma
    add_transform(layer, SpectralNormalization(layer.weight, generator()))
    for _ in range(200):
        layer(x)
    torch.testing.assert_close(layer(x) - layer.bias.view(-1, *[1] * (x.dim() - 2)), expected, rtol=1e-4, atol=1e-5)

    theirs = type(layer)(7, 5) if isinstance(layer, nn.Linear) else nn.Conv2d(3, 4, 3, stride=2)
    with torch.no_grad():
        theirs.weight.copy_(weight)
    theirs = nn.utils.parametrizations.spectral_norm(theirs, n_power_iterations=200)
    torch.testing.assert_close(layer.effective_weight, theirs.weight, rtol=1e-4, atol=1e-5)


def test_sigma_is_as_exact_under_autocast():
    layer = nn.Linear(300, 5)
    add_transform(layer, SpectralNormalization(layer.weight, generator()))
    (transform,) = layer.transforms
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for _ in range(50):
            assert layer(torch.ones(2, 300)).dtype == torch.bfloat16
        weight = layer.effective_weight
    sigma = torch.linalg.matrix_norm(layer.weight.detach(), 2)
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, layer.weight / sigma, rtol=1e-5, atol=0)
    torch.testing.assert_close(transform.left.norm(), torch.tensor(1.0), rtol=1e-6, atol=0)


def test_the_gradient_passes_through_sigma():
    """W = diag(2, 1): W / sigma = diag(1, 1/2); the first entry is constant, d(W_22 / sigma)/dW_11 = -1/4."""
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([2.0, 1.0])))
    add_transform(layer, SpectralNormalization(layer.weight, generator()))
    for _ in range(50):
        layer(torch.ones(2))
    (gradient,) = torch.autograd.grad(layer(torch.ones(2)).sum(), layer.weight)
    torch.testing.assert_close(gradient.diagonal(), torch.tensor([-0.25, 0.5]), atol=1e-5, rtol=0)


def test_evaluation_moves_no_buffer_and_restart_catches_up():
    layer = nn.Linear(6, 6)
    add_transform(layer, SpectralNormalization(layer.weight, generator()))
    (transform,) = layer.transforms
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.arange(1.0, 7.0)))
    before = transform.left.clone()
    layer.eval()(torch.ones(6))
    assert torch.equal(transform.left, before)
    for _ in range(10):
        transform.restart(layer.weight)
    torch.testing.assert_close(transform.left.abs(), torch.eye(6)[5], atol=1e-4, rtol=0)


def test_transforms_stack_in_order_and_a_zero_weight_stays_zero():
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 100.0], [0.0, 0.0]]))
    add_transform(layer, FixedMask(torch.tensor([[True, False], [True, True]])))
    add_transform(layer, SpectralNormalization(layer.effective_weight.detach(), generator()))
    torch.testing.assert_close(layer.effective_weight, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    with torch.no_grad():
        layer.weight.zero_()
    assert float(layer(torch.ones(2)).abs().sum().detach()) == 0.0


def test_other_layers_are_refused():
    with pytest.raises(UserError, match="the weights of a LayerNorm cannot be pruned or normalised"):
        add_transform(nn.LayerNorm(3), FixedMask(torch.ones(3)))
