"""Cleared optimizer state is that of a parameter which was never stepped."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from plasticity_rl.surgery import clear_state

OPTIMIZERS = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.1),
    "amsgrad": lambda parameters: torch.optim.Adam(parameters, lr=0.1, amsgrad=True),
    "fused": lambda parameters: torch.optim.Adam(parameters, lr=0.1, fused=True),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.1, momentum=0.5, centered=True),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
}


def step(optimizer: torch.optim.Optimizer, times: int = 1) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for _ in range(times):
        optimizer.zero_grad()
        sum((p - 1.0).square().sum() for p in parameters).backward()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_next_step_is_that_of_a_new_optimizer(name):
    """The point of it all: bias corrections and moments start over, exactly."""
    layer = nn.Linear(3, 2)
    optimizer = OPTIMIZERS[name](layer.parameters())
    step(optimizer, 5)
    twin = copy.deepcopy(layer)
    new, unclear = OPTIMIZERS[name](twin.parameters()), copy.deepcopy((layer, optimizer))
    clear_state(optimizer, layer.parameters())
    step(optimizer, 3)
    step(new, 3)
    step(unclear[1], 3)
    assert torch.equal(layer.weight, twin.weight)
    assert torch.equal(layer.bias, twin.bias)
    changed = [p for group in unclear[1].param_groups for p in group["params"]]
    assert not torch.equal(changed[0], twin.weight), "clearing must make a difference here"


def test_state_tensors_stay_the_same_objects_and_others_are_left():
    layer = nn.Linear(3, 2)
    optimizer = OPTIMIZERS["adam"](layer.parameters())
    step(optimizer, 4)
    identities = {key: id(value) for key, value in optimizer.state[layer.weight].items()}
    other = copy.deepcopy(optimizer.state[layer.bias])
    clear_state(optimizer, [layer.weight])
    assert {key: id(value) for key, value in optimizer.state[layer.weight].items()} == identities
    assert not any(value.any() for value in optimizer.state[layer.weight].values())
    assert int(optimizer.state[layer.bias]["step"]) == 4
    assert all(torch.equal(optimizer.state[layer.bias][key], value) for key, value in other.items())
    assert all(value.any() for value in other.values())


def test_numbers_are_cleared_too():
    """Some optimizers keep the step count as a plain number."""
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    optimizer.state[parameter] = {"step": 7, "decay": 0.5, "note": "text"}
    clear_state(optimizer, [parameter])
    assert optimizer.state[parameter] == {"step": 0, "decay": 0.0, "note": "text"}
    assert isinstance(optimizer.state[parameter]["step"], int)


def test_before_the_first_step_there_is_nothing_to_clear():
    layer = nn.Linear(3, 2)
    optimizer = OPTIMIZERS["adam"](layer.parameters())
    clear_state(optimizer, layer.parameters())
    assert dict(optimizer.state) == {}, "no state may be made up: the optimizer initialises it itself"


def test_stranger_is_refused_before_anything_is_lost():
    layer = nn.Linear(3, 2)
    optimizer = OPTIMIZERS["adam"](layer.parameters())
    step(optimizer)
    with pytest.raises(KeyError, match=r"shape \(5,\) is not in this optimizer"):
        clear_state(optimizer, [nn.Parameter(torch.ones(5))])
    assert optimizer.state[layer.weight]["exp_avg"].any()


@pytest.mark.parametrize("what", ["both", "moments", "step"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_only_the_named_part_is_cleared(name, what):
    layer = nn.Linear(3, 2)
    optimizer = OPTIMIZERS[name](layer.parameters())
    step(optimizer, 4)
    before = copy.deepcopy(optimizer.state[layer.weight])
    assert all(torch.as_tensor(value).any() for value in before.values())
    clear_state(optimizer, [layer.weight], what)
    for key, value in optimizer.state[layer.weight].items():
        if what == "both" or (key == "step") == (what == "step"):
            assert not torch.as_tensor(value).any(), key
        else:
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(before[key])), key


def test_after_a_step_only_reset_adam_takes_the_smaller_first_step():
    """Moments m = v = 1 kept and t = 0: (1 / (1 - 0.9)) / sqrt(1 / (1 - 0.999)) = sqrt(0.1) instead of 1."""
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], lr=0.1, eps=0.0)
    parameter.grad = torch.ones(1)
    optimizer.step()
    state = optimizer.state[parameter]
    state["exp_avg"].fill_(1.0), state["exp_avg_sq"].fill_(1.0), state["step"].fill_(10_000)
    clear_state(optimizer, [parameter], "step")
    before = parameter.item()
    optimizer.step()
    assert before - parameter.item() == pytest.approx(0.1 * 0.1**0.5, rel=1e-3)
