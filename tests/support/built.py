"""Agents with interventions on their architecture, without a Trainer."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from tiny_agent import TinyAgent

from plasticity_rl import DrQV2, RLModule
from plasticity_rl.callback import RLCallback


def drqv2(*callbacks: RLCallback, seed: int = 0, **options) -> DrQV2:
    """Return a small agent (4 channels, 7 features, 6 hidden units) built with ``callbacks``."""
    torch.manual_seed(3)
    sizes = {"feature_dim": 7, "hidden_dim": 6, "num_channels": 4}
    agent = DrQV2((9, 20, 20), 2, seed=seed, **{**sizes, **options})
    agent.build(callbacks)
    return agent


def other_agent(*callbacks: RLCallback, seed: int = 0) -> TinyAgent:
    """Return the second agent, width 16, built with ``callbacks``."""
    torch.manual_seed(3)
    agent = TinyAgent((9, 16, 16), 2, seed=seed)
    agent.build(callbacks)
    return agent


def some_batch(agent: RLModule, size: int = 8, side: int = 20, seed: int = 0) -> TensorDict:
    """Return a batch of noise for one of these agents."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randint(0, 256, (size, 9, side, side), generator=generator, dtype=torch.uint8)  # noqa: E731
    action = torch.rand((size, agent.action_dim), generator=generator) * 2 - 1
    reward, discount = torch.rand((size, 1), generator=generator), torch.full((size, 1), 0.97)
    values = {"pixels": draw(), "action": action, "reward": reward, "discount": discount}
    return TensorDict({**values, "next": {"pixels": draw()}}, batch_size=[size])


def shapes(agent: RLModule) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter by name."""
    return {name: tuple(p.shape) for name, p in agent.named_parameters()}


def changed(agent: RLModule, plain: RLModule) -> set[str]:
    """Return the names of parameters that ``plain`` lacks or that have other values there."""
    theirs = dict(plain.named_parameters())
    same = {n for n, p in agent.named_parameters() if n in theirs and torch.equal(p, theirs[n])}
    return {name for name, _ in agent.named_parameters()} - same


def assert_target_is_a_twin(agent: RLModule) -> None:
    """Names, values and order of the target critic's parameters and buffers are the critic's; none is trained."""
    online, target = agent.critic.state_dict(), agent.critic_target.state_dict()
    assert list(online) == list(target)
    assert [n for n, _ in agent.critic.named_parameters()] == [n for n, _ in agent.critic_target.named_parameters()]
    assert all(torch.equal(online[name], target[name]) for name in online)
    assert not any(p.requires_grad for p in agent.critic_target.parameters())
    ours = {id(p) for p in agent.critic.parameters()}
    assert not any(id(p) in ours for p in agent.critic_target.parameters())


def assert_learns(agent: RLModule, updates: int = 3) -> None:
    """Every trainable parameter has moved after some updates, and all are finite."""
    before = {name: p.detach().clone() for name, p in agent.named_parameters()}
    for seed in range(updates):
        agent.update(some_batch(agent, side=20 if isinstance(agent, DrQV2) else 16, seed=seed))
    for name, parameter in agent.named_parameters():
        assert bool(torch.isfinite(parameter).all()), name
        if parameter.requires_grad:
            assert not torch.equal(parameter, before[name]), f"{name} is not trained"
