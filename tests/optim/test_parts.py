"""Optimizers made of others: one from outside, each on its own parameters, also after a copy or a restart."""

from __future__ import annotations

import copy
import functools
import inspect

import pytest
import torch
from no_sync import no_waiting
from torch import nn
from torch.optim import SGD, Adam

from plasticity_rl.optim.parts import Parts, part_that_steps_on, replaced
from plasticity_rl.optim.trac import ScaledFromReference
from plasticity_rl.optim.upgd import UtilityGatedDescent
from plasticity_rl.rng import NamedGenerators
from plasticity_rl.surgery import clear_elements, clear_state


def parameters(n: int = 3) -> list[nn.Parameter]:
    return [nn.Parameter(torch.full((2, 2), float(i + 1))) for i in range(n)]


def momentum(optimizer):
    return SGD([{"params": group["params"], "lr": group["lr"]} for group in optimizer.param_groups], momentum=0.9)


def step(optimizer, *own, value: float = 1.0) -> None:
    for p in own:
        p.grad = torch.full_like(p, value)
    optimizer.step()


def test_what_nobody_chose_is_returned_as_it_is():
    a, b = parameters(2)
    adam = Adam([a], lr=0.1)
    assert replaced(adam, []) is adam
    assert replaced(adam, [([b], momentum)]) is adam


def test_all_of_it_is_the_other_optimizer_alone():
    a, b = parameters(2)
    found = replaced(Adam([a, b], lr=0.1), [([b, a], momentum)])
    assert type(found) is SGD
    assert found.param_groups[0]["params"] == [a, b]


def test_each_part_steps_in_its_own_way():
    """The rest as a plain Adam with the same options; the chosen one as SGD with momentum 0.9: 0.1 and then 0.19."""
    a, b, c = parameters()
    plain = nn.Parameter(a.detach().clone())
    optimizer = replaced(Adam([a, b, c], lr=0.1, eps=0.5), [([b], momentum)])
    reference = Adam([plain], lr=0.1, eps=0.5)
    assert isinstance(optimizer, Parts)
    assert [group["params"] for group in optimizer.param_groups] == [[a, c], [b]]
    for _ in range(2):
        step(optimizer, a, b, c)
        step(reference, plain)
    assert torch.equal(a, plain)
    assert b.flatten().tolist() == pytest.approx([2.0 - 0.1 - 0.19] * 4)


def test_options_of_the_groups_are_kept():
    a, b, c = parameters()
    adam = Adam([{"params": [a], "lr": 0.3}, {"params": [b, c], "lr": 0.1}], eps=0.7)
    adam.param_groups[1]["eps"] = 0.2
    found = replaced(adam, [([a, b], lambda limited: limited)])
    kept = [(group["params"], group["lr"], group["eps"]) for group in found.param_groups]
    assert kept == [([c], 0.1, 0.2), ([a], 0.3, 0.7), ([b], 0.1, 0.2)]


def test_state_is_edited_from_outside():
    a, b, c = parameters()
    optimizer = replaced(Adam([a, b, c], lr=0.1), [([b], momentum)])
    step(optimizer, a, b, c)
    clear_state(optimizer, [a])
    clear_elements(optimizer, b, torch.tensor([[True], [False]]))
    assert not any(value.any() for value in optimizer.state[a].values())
    assert optimizer.state[b]["momentum_buffer"].tolist() == [[0.0, 0.0], [1.0, 1.0]]
    step(optimizer, b)
    torch.testing.assert_close(optimizer.state[b]["momentum_buffer"], torch.tensor([[1.0, 1.0], [1.9, 1.9]]))
    with pytest.raises(KeyError):
        clear_state(optimizer, [nn.Parameter(torch.zeros(1))])


def test_learning_rates_reach_the_parts():
    a, b = parameters(2)
    optimizer = replaced(Adam([a, b], lr=0.1), [([b], momentum)])
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    step(optimizer, a, b)
    assert (a.unique().tolist(), b.unique().tolist()) == ([1.0], [2.0])


def nested(own):
    """Parts within a part, as TRAC beside another optimizer is."""
    return replaced(Adam(own, lr=0.1), [(own[1:2], momentum), (own[2:], lambda limited: Parts([limited]))])


def test_it_goes_on_from_its_state_and_as_a_copy():
    own, others = parameters(), parameters()
    optimizer, restored = nested(own), nested(others)
    for _ in range(3):
        step(optimizer, *own, value=0.5)
    with torch.no_grad():
        for p, q in zip(others, own, strict=True):
            p.copy_(q)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    copied, twins = copy.deepcopy((optimizer, own))
    for _ in range(3):
        for one, theirs in ((optimizer, own), (restored, others), (copied, twins)):
            step(one, *theirs, value=-2.0)
    for theirs in (others, twins):
        assert all(torch.equal(p, q) for p, q in zip(theirs, own, strict=True))
    assert own[0].unique().tolist() != [1.0]


def test_hooks_before_a_step_run_before_all_parts():
    a, b = parameters(2)
    optimizer = replaced(Adam([a, b], lr=0.1), [([b], momentum)])
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append((a[0, 0].item(), b[0, 0].item())))
    step(optimizer, a, b)
    assert seen == [(1.0, 2.0)]


def test_a_closure_is_called_once_and_with_gradients():
    a, b = parameters(2)
    optimizer, calls = replaced(Adam([a, b], lr=0.1), [([b], momentum)]), []

    def closure() -> float:
        optimizer.zero_grad()
        loss = (a * b).sum()
        loss.backward()
        calls.append(1)
        return float(loss)

    assert optimizer.step(closure) == 8.0
    assert len(calls) == 1


def test_who_steps_on_a_parameter_is_found_inside():
    own = parameters()
    optimizer = nested(own)
    assert [type(part_that_steps_on(optimizer, p, SGD)) for p in own] == [type(None), SGD, type(None)]
    assert part_that_steps_on(optimizer, own[0], Parts) is optimizer
    assert part_that_steps_on(optimizer, nn.Parameter(torch.zeros(1)), Parts) is None


@pytest.mark.parametrize("scaling", ["global", "local"])
@pytest.mark.parametrize("adaptive", [True, False])
def test_no_step_waits_for_a_gpu(scaling, adaptive):
    """Past torch's wrappers, inside which the guard does not look."""
    draw = functools.partial(NamedGenerators(0).get, "noise")
    upgd = UtilityGatedDescent(own := parameters(), draw, lr=0.1, scaling=scaling, adaptive=adaptive)
    trac = ScaledFromReference(Adam(others := parameters(), lr=0.1), discounts=(0.9,), first_scale=0.1, eps=1e-8)
    for p in (*own, *others):
        p.grad = torch.ones_like(p)
    for _ in range(2):
        with torch.no_grad(), no_waiting():
            for optimizer in (upgd, trac):
                inspect.unwrap(type(optimizer).step)(optimizer)
    assert not any(torch.equal(p, q) for p, q in zip((*own, *others), parameters() * 2, strict=True))
