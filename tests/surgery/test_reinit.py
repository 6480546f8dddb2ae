"""Fresh weights in place: same tensors, the published distribution, nobody else's numbers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from plasticity_rl.agents.drqv2.networks import Actor, Critic, Encoder
from plasticity_rl.nn.blocks import init_weights
from plasticity_rl.surgery import copy_parameters, reinitialize


def trained(module: nn.Module) -> nn.Module:
    """Move every parameter away from what any initialisation gives."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)) + 3.0)
    return module


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


MODULES = [Encoder((9, 20, 20), 4), Actor(30, 2, 8, 16), Critic(30, 2, 8, 16)]


@pytest.mark.parametrize("module", MODULES, ids=["encoder", "actor", "critic"])
def test_fresh_weights_have_the_published_distribution(module):
    module = trained(copy.deepcopy(module))
    reinitialize(module, init_weights, generator())
    layers = [layer for layer in module.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    assert layers
    for layer in layers:
        weight = layer.weight.detach().flatten(1)
        gain = 2.0 if isinstance(layer, nn.Conv2d) else 1.0  # squared
        gram = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
        torch.testing.assert_close(gram, gain * torch.eye(len(gram)), atol=1e-5, rtol=0)
        assert not layer.bias.any()
    for layer in module.modules():
        if isinstance(layer, nn.LayerNorm):
            assert (layer.weight == 1).all()
            assert not layer.bias.any()


@pytest.mark.parametrize("module", MODULES, ids=["encoder", "actor", "critic"])
def test_every_tensor_changes_and_stays_the_same_object(module):
    module = trained(copy.deepcopy(module))
    before = {name: (id(p), p.data_ptr(), p.detach().clone()) for name, p in module.named_parameters()}
    reinitialize(module, init_weights, generator())
    for name, parameter in module.named_parameters():
        identity, pointer, value = before[name]
        assert (id(parameter), parameter.data_ptr()) == (identity, pointer)
        assert not torch.equal(parameter, value), name
        assert parameter.requires_grad
        assert parameter.grad_fn is None


def test_weights_depend_on_the_generator_alone():
    one, two = trained(Critic(30, 2, 8, 16)), Critic(30, 2, 8, 16)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    reinitialize(one, init_weights, generator(3))
    torch.rand(10)
    reinitialize(two, init_weights, generator(3))
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))
    reinitialize(two, init_weights, generator(4))
    assert not torch.equal(one.trunk[0].weight, two.trunk[0].weight)
    torch.set_rng_state(state)
    reinitialize(two, init_weights, generator(4))
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"


def test_a_second_reset_gives_other_weights():
    module, source = Critic(30, 2, 8, 16), generator()
    reinitialize(module, init_weights, source)
    first = module.Q1[0].weight.detach().clone()
    reinitialize(module, init_weights, source)
    assert not torch.equal(first, module.Q1[0].weight)


def test_part_of_a_module_leaves_the_rest():
    module = trained(Critic(30, 2, 8, 16))
    before = copy.deepcopy(module)
    reinitialize(module.Q1, init_weights, generator())
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, dict(before.named_parameters())[name]) != name.startswith("Q1.")


def test_a_single_layer_can_be_named():
    module = trained(Critic(30, 2, 8, 16))
    reinitialize(module.Q1[4], init_weights, generator())
    assert not module.Q1[4].bias.any()
    assert module.Q1[2].bias.all()


@pytest.mark.gpu
@pytest.mark.parametrize("module", MODULES, ids=["encoder", "actor", "critic"])
def test_gpu_gets_the_weights_of_the_cpu(module):
    on_cpu, on_gpu = copy.deepcopy(module), copy.deepcopy(module).cuda()
    reinitialize(on_cpu, init_weights, generator(3))
    reinitialize(on_gpu, init_weights, generator(3))
    for p, q in zip(on_cpu.parameters(), on_gpu.parameters(), strict=True):
        assert q.device.type == "cuda"
        assert torch.equal(p, q.cpu())


def test_copy_parameters_is_in_place_and_by_name():
    source, target = trained(Critic(30, 2, 8, 16)), Critic(30, 2, 8, 16).requires_grad_(False)
    identities = [id(p) for p in target.parameters()]
    copy_parameters(source, target)
    assert identities == [id(p) for p in target.parameters()]
    assert not any(p.requires_grad or p.grad_fn for p in target.parameters())
    for p, q in zip(source.parameters(), target.parameters(), strict=True):
        assert torch.equal(p, q)
        assert p.data_ptr() != q.data_ptr()


def test_copy_parameters_refuses_strangers():
    with pytest.raises(ValueError, match="no twins: .*Q1.0.bias.*exist in one of them only"):
        copy_parameters(Critic(30, 2, 8, 16), Actor(30, 2, 8, 16))
