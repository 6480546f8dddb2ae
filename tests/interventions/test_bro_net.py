"""BRO's heads: the formula by hand and over a run, first weights, and its resets."""

from __future__ import annotations

import pytest
import torch
from built import drqv2
from helpers import fit_tiny, tiny_sac
from run_state import DieAt, Killed, differences, run_state
from slow_layers import slow_linear, slow_norm

from callbacks import BroNet, ReDo, Reset
from plasticity_rl import SAC
from plasticity_rl.callback import RLCallback
from plasticity_rl.nn.residual import Residual

STATE = {"observation": "state"}


def test_a_block_by_hand():
    """Width 2: (1, -1) is normalised to itself, ReLU leaves (1, 0), whose sum and difference are (1, 1); the first
    layer of the block makes (1, -1) of (1, 0), ReLU (1, 0), the second (-5, 5), normalised (-1, 1): 1 - 1, 0 + 1."""
    agent = drqv2(BroNet(modules=["actor"], hidden_dim=2, num_blocks=1))
    first, _, _, block, output = agent.actor.policy
    assert isinstance(block, Residual)
    with torch.no_grad():
        for layer in (first, block[0], block[3], output):
            layer.weight.zero_()
            layer.bias.zero_()
        first.weight[:, :2] = torch.eye(2)
        block[0].weight[:, 0] = torch.tensor([1.0, -1.0])
        block[3].weight[:, 0] = torch.tensor([-5.0, 5.0])
        output.weight.copy_(torch.tensor([[1.0, 7.0], [3.0, 0.0]]))
    features = torch.zeros(1, 7)
    features[0, :2] = torch.tensor([1.0, -1.0])
    assert agent.actor.policy[:3](features).tolist()[0] == pytest.approx([1.0, 0.0], abs=1e-5)
    assert agent.actor.policy[:4](features).tolist()[0] == pytest.approx([0.0, 1.0], abs=1e-5)
    assert agent.actor.policy(features).tolist()[0] == pytest.approx([7.0, 0.0], abs=1e-4)


def slow_head(values: dict[str, list], num_blocks: int, x: list[float]) -> list[float]:
    """BroNet of one input in plain Python, from the weights by name."""

    def dense(x: list[float], name: str) -> list[float]:
        return slow_linear(x, values[f"{name}.weight"], values[f"{name}.bias"])

    def norm(x: list[float], name: str) -> list[float]:
        return slow_norm(x, values[f"{name}.weight"], values[f"{name}.bias"])

    def relu(x: list[float]) -> list[float]:
        return [max(value, 0.0) for value in x]

    stream = relu(norm(dense(x, "0"), "1"))
    for block in range(3, 3 + num_blocks):
        inner = relu(norm(dense(stream, f"{block}.0"), f"{block}.1"))
        added = norm(dense(inner, f"{block}.3"), f"{block}.4")
        stream = [a + b for a, b in zip(stream, added, strict=True)]
    return dense(stream, str(3 + num_blocks))


def given() -> list[RLCallback]:
    resets = Reset(modules=["actor", "critic", "temperature"], at_frames=[80, 140])
    return [BroNet(hidden_dim=4), resets, ReDo(tau=0.3, every_n_updates=5, batch_size=8)]


def test_a_slow_head_agrees_over_a_run_with_its_resets(tmp_path):
    agent = fit_tiny(tmp_path, callbacks=given(), make_agent=tiny_sac, data_options=STATE)
    assert agent.num_updates > 30
    draw = torch.Generator().manual_seed(0)
    state = torch.randn(4, agent.obs_dim, generator=draw)
    inputs = torch.cat([state, torch.rand(4, agent.action_dim, generator=draw)], -1)
    found = [(agent.actor.policy, 1, state)]
    found += [(net.get_submodule(q), 2, inputs) for net in (agent.critic, agent.critic_target) for q in ("Q1", "Q2")]
    for head, num_blocks, x in found:
        values = {name: p.detach().double().tolist() for name, p in head.named_parameters()}
        slow = [slow_head(values, num_blocks, row) for row in x.double().tolist()]
        torch.testing.assert_close(head(x).detach().double(), torch.tensor(slow).double(), rtol=1e-3, atol=1e-4)


def test_a_killed_run_goes_on_exactly(tmp_path):
    run = {"make_agent": tiny_sac, "data_options": {**STATE, "eval_every_n_frames": 60}, "max_frames": 200}
    straight = fit_tiny(tmp_path / "straight", callbacks=given(), **run)
    with pytest.raises(Killed):
        fit_tiny(tmp_path / "resumed", callbacks=[*given(), DieAt(150)], **run)
    resumed = fit_tiny(tmp_path / "resumed", callbacks=given(), ckpt_path="last", **run)
    assert differences(run_state(straight), run_state(resumed)) == []


class AfterReset(Reset):
    """Looks at what a full reset leaves."""

    def act(self, agent) -> str:
        with torch.no_grad():
            agent.temperature.log_alpha.add_(1.0)
        said = super().act(agent)
        twins = zip(agent.critic.parameters(), agent.critic_target.parameters(), strict=True)
        self.equal = all(torch.equal(a, b) for a, b in twins)
        self.temperature = float(agent.temperature.log_alpha.detach())
        optimizers = [agent.optimizer_by_name(name) for name in agent.optimizer_names]
        self.steps = [float(s["step"]) for o in optimizers for s in o.state.values() if "step" in s]
        return said


def test_a_full_reset_as_bro_has_it_starts_everything_again(tmp_path):
    """Actor, critic, its target, the temperature and all optimizers; the replay stays."""
    reset = AfterReset(modules=["actor", "critic", "temperature"], at_frames=[80])
    agent = fit_tiny(tmp_path, callbacks=[BroNet(hidden_dim=4), reset], make_agent=tiny_sac, data_options=STATE)
    assert reset.equal
    assert reset.temperature == 0.0
    assert not any(reset.steps)
    assert agent.data.replay.num_transitions > 80


def test_first_weights_are_orthogonal_times_the_root_of_two():
    agent = SAC((5,), 2)
    agent.build([BroNet(hidden_dim=16)])
    for name, p in agent.critic.Q1.named_parameters():
        if p.ndim == 2:
            small = p @ p.T if p.shape[0] <= p.shape[1] else p.T @ p
            torch.testing.assert_close(small, 2 * torch.eye(len(small)), atol=1e-5, rtol=0)
        elif name.endswith("bias"):
            assert not p.any()
