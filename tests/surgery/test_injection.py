"""Heads to which plasticity can be injected."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from plasticity_rl.nn.blocks import init_weights
from plasticity_rl.nn.weight_transforms import SpectralNormalization, add_transform, weight_in_use
from plasticity_rl.surgery.injection import InjectableHead, make_injectable


def head_and_twin(num: int = 2) -> tuple[nn.Sequential, nn.Sequential]:
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1))
    twin = copy.deepcopy(head).requires_grad_(False)
    make_injectable(head, twin, num, init_weights, torch.Generator().manual_seed(1))
    return head, twin


def trainable(head: nn.Module) -> set[str]:
    return {name for name, p in head.named_parameters() if p.requires_grad}


BASE = {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_what_is_trainable_before_and_after():
    head, twin = head_and_twin()
    assert isinstance(head, InjectableHead)
    assert trainable(head) == BASE
    size = sum(p.numel() for p in head.parameters() if p.requires_grad)
    for index in range(2):
        head.inject()
        assert trainable(head) == {f"injected.{index}.added.{name}" for name in BASE}
        assert sum(p.numel() for p in head.parameters() if p.requires_grad) == size
    assert trainable(twin) == set()
    with pytest.raises(RuntimeError, match="only 2 pairs"):
        head.inject()


def test_what_is_added_has_the_spectral_norm_of_its_own_weights():
    """A copy of the head's estimate, which only passes would bring near, is that of other weights."""

    def normal(layer: nn.Module, generator: torch.Generator) -> None:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, generator=generator)

    head = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    for layer in (head[0], head[2]):
        add_transform(layer, SpectralNormalization(layer.weight, torch.Generator().manual_seed(2)))
    make_injectable(head, None, 1, normal, torch.Generator().manual_seed(1))
    layers = [one for one in head.injected.modules() if isinstance(one, nn.Linear)]
    norms = [float(torch.linalg.matrix_norm(weight_in_use(one).detach(), 2)) for one in layers]
    assert norms == pytest.approx([1.0] * 4, abs=0.02)


def test_the_output_stays_and_then_moves_by_the_difference():
    head, _ = head_and_twin()
    x = torch.randn(7, 3)
    before = head(x).detach()
    head.inject()
    assert float((head(x) - before).abs().max().detach()) < 1e-6
    pair = head.injected[0]
    with torch.no_grad():
        for p in pair["added"].parameters():
            p.add_(0.1)
    torch.testing.assert_close(head(x), before + pair["added"](x) - pair["removed"](x))
    after = head(x).detach()
    head.inject()
    assert float((head(x) - after).abs().max().detach()) < 1e-6


def test_gradient_reaches_the_input_through_all_heads():
    head, _ = head_and_twin()
    head.inject()
    with torch.no_grad():
        for p in head.injected[0]["added"].parameters():
            p.mul_(1.5)
    x = torch.randn(4, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(head(x).sum(), x)
    base = nn.Sequential(*[head[i] for i in range(3)])
    parts = [base, head.injected[0]["added"], head.injected[0]["removed"]]
    own = [torch.autograd.grad(part(x).sum(), x)[0] for part in parts]
    torch.testing.assert_close(gradient, own[0] + own[1] - own[2])
    assert bool((own[0] != 0).any())


def test_each_injection_draws_other_weights_equal_in_the_target():
    head, twin = head_and_twin()
    first, second = (pair["added"][0].weight for pair in head.injected)
    assert not torch.equal(first, second)
    assert not torch.equal(first, head[0].weight)
    for ours, theirs in zip(head.injected.parameters(), twin.injected.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours is not theirs


def test_the_state_dict_restores_the_number_of_injections():
    head, _ = head_and_twin()
    head.inject()
    other, _ = head_and_twin()
    other.load_state_dict(head.state_dict())
    assert other.num_injections == 1
    assert trainable(other) == trainable(head)
    assert torch.equal(other(torch.ones(3)), head(torch.ones(3)))


def test_only_a_plain_sequential_is_taken():
    with pytest.raises(TypeError, match="cannot inject into a Linear"):
        make_injectable(nn.Linear(2, 2), None, 1, init_weights, torch.Generator())
