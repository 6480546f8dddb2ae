from __future__ import annotations

import torch
from helpers import tiny_agent, tiny_data


def test_a_frozen_parameter_is_not_stepped_on_the_gradient_it_had_before():
    agent = tiny_agent(tiny_data())
    weight, other = agent.actor.policy[0].weight, agent.actor.policy[2].weight

    def loss() -> torch.Tensor:
        return agent.actor.policy(torch.ones(1, agent.actor.policy[0].in_features)).square().sum()

    agent.minimize(loss(), "actor")
    assert weight.grad is not None
    weight.requires_grad_(False)
    before, other_before = weight.clone(), other.clone()
    agent.minimize(loss(), "actor")
    assert weight.grad is None
    assert torch.equal(weight, before)
    assert not torch.equal(other, other_before)


def test_the_optimizers_step_as_adam_written_out():
    agent = tiny_agent(tiny_data())
    adam = agent.configure_optimizers()[agent.optimizer_names.index("actor")]
    parameters = list(agent.actor.parameters())
    assert [id(p) for p in adam.param_groups[0]["params"]] == [id(p) for p in parameters]
    generator = torch.Generator().manual_seed(0)
    first, second = ([torch.zeros_like(p, dtype=torch.float64) for p in parameters] for _ in range(2))
    expected = [p.detach().double() for p in parameters]
    for step in range(1, 6):
        for i, p in enumerate(parameters):
            p.grad = torch.randn(p.shape, generator=generator) * 10.0 ** -(i % 5)
            gradient = p.grad.double()
            first[i] = 0.9 * first[i] + 0.1 * gradient
            second[i] = 0.999 * second[i] + 0.001 * gradient**2
            mean, square = first[i] / (1 - 0.9**step), second[i] / (1 - 0.999**step)
            expected[i] = expected[i] - agent.lr * mean / (square.sqrt() + 1e-8)
        adam.step()
    for p, q in zip(parameters, expected, strict=True):
        # float32 weights of size 1 have steps of 6e-8; the step size is lr
        torch.testing.assert_close(p.double(), q, rtol=0.0, atol=5e-7)
