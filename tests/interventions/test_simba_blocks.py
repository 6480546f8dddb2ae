"""SimBa's heads: the formula by hand and over a run, and what the observations are normalised by."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from built import drqv2
from helpers import fit_tiny, tiny_agent, tiny_dqn, tiny_sac
from run_state import DieAt, Killed, differences, run_state
from slow_layers import slow_linear, slow_norm
from torch import nn

from callbacks import PlasticityInjection, ReDo, Reset, ShrinkAndPerturb, SimBaBlocks
from plasticity_rl import DQN, SAC, DrQV2, UserError
from plasticity_rl.callback import RLCallback
from plasticity_rl.nn.residual import Residual, RunningNorm

STATE = {"observation": "state"}
FROM_STATES = {"make_agent": tiny_sac, "data_options": STATE}


def test_a_block_by_hand():
    """Width 2: the embedding doubles (1, -1) to (2, -2), which a norm makes (1, -1); of the 8 hidden units the first
    passes the first number on, to which the block adds 3 of it: (2 + 3, -2); normalised that is (1, -1) again."""
    agent = drqv2(SimBaBlocks(modules=["actor"], hidden_dim=2, num_blocks=1))
    embedding, block, _, output = agent.actor.policy
    assert isinstance(block, Residual)
    with torch.no_grad():
        for layer in (embedding, block[1], block[3], output):
            layer.weight.zero_()
            layer.bias.zero_()
        embedding.weight[:, :2] = 2 * torch.eye(2)
        block[1].weight[0, 0] = 1.0
        block[1].weight[1, 1] = 1.0  # -1: cut off by the ReLU
        block[3].weight[0, :2] = 3.0
        output.weight.copy_(torch.tensor([[10.0, 0.0], [0.0, 1.0]]))
    features = torch.zeros(1, 7)
    features[0, :2] = torch.tensor([1.0, -1.0])
    stream = block(embedding(features))
    assert stream.tolist()[0] == pytest.approx([5.0, -2.0], abs=1e-5)
    assert agent.actor.policy(features).tolist()[0] == pytest.approx([10.0, -1.0], abs=1e-5)


def slow_head(values: dict[str, list], num_blocks: int, x: list[float], seen: list[list[float]]) -> list[float]:
    """SimBa of one input in plain Python, from the weights by name and all observations that were acted on."""
    normalised = []
    for index, value in enumerate(x):
        if index < len(seen[0]):
            column = [row[index] for row in seen]
            mean = sum(column) / len(column)
            spread = math.sqrt(sum((v - mean) ** 2 for v in column) / len(column) + 1e-8)
            value = (value - mean) / spread
        normalised.append(value)
    stream = slow_linear(normalised, values["0.weight"], values["0.bias"])
    for number in range(1, num_blocks + 1):
        inner = slow_norm(stream, values[f"{number}.0.weight"], values[f"{number}.0.bias"])
        hidden = slow_linear(inner, values[f"{number}.1.weight"], values[f"{number}.1.bias"])
        added = slow_linear([max(v, 0.0) for v in hidden], values[f"{number}.3.weight"], values[f"{number}.3.bias"])
        stream = [a + b for a, b in zip(stream, added, strict=True)]
    last = num_blocks + 1
    stream = slow_norm(stream, values[f"{last}.weight"], values[f"{last}.bias"])
    return slow_linear(stream, values[f"{last + 1}.weight"], values[f"{last + 1}.bias"])


class Seen(RLCallback):
    """Keeps every observation that a training action was chosen for, and what an evaluation begins and ends with."""

    def __init__(self) -> None:
        self.rows: list[list[float]] = []
        self.moments: list[torch.Tensor] = []

    def on_env_step(self, agent, step) -> None:
        self.rows += step["state"].double().tolist()

    def on_validation_start(self, trainer, pl_module) -> None:
        self.moments.append(pl_module.actor.policy.observations.mean.clone())

    def on_validation_end(self, trainer, pl_module) -> None:
        self.moments.append(pl_module.actor.policy.observations.mean.clone())


def test_a_slow_head_agrees_over_a_run_with_two_environments_and_resets(tmp_path):
    seen = Seen()
    agent = fit_tiny(
        tmp_path,
        callbacks=[SimBaBlocks(hidden_dim=4), seen, Reset(at_frames=[100]), ReDo(tau=0.3, every_n_updates=5)],
        make_agent=tiny_sac,
        data_options={**STATE, "num_envs": 2},
    )
    assert len(seen.rows) == agent.env_steps == 100
    assert agent.num_updates > 30
    state = torch.tensor(seen.rows[7::30], dtype=torch.float32)
    action = torch.rand(len(state), agent.action_dim, generator=torch.Generator().manual_seed(0))
    inputs = torch.cat([state, action], -1)
    found = [(agent.actor.policy, 1, state)]
    found += [(net.get_submodule(q), 2, inputs) for net in (agent.critic, agent.critic_target) for q in ("Q1", "Q2")]
    for head, num_blocks, given in found:
        values = {name: p.detach().double().tolist() for name, p in head.named_parameters()}
        slow = [slow_head(values, num_blocks, row, seen.rows) for row in given.double().tolist()]
        torch.testing.assert_close(head(given).detach().double(), torch.tensor(slow).double(), rtol=2e-3, atol=1e-4)


def test_evaluations_do_not_count(tmp_path):
    seen = Seen()
    fit_tiny(tmp_path, callbacks=[SimBaBlocks(hidden_dim=4), seen], **FROM_STATES)
    assert len(seen.moments) >= 4
    for before, after in zip(seen.moments[::2], seen.moments[1::2], strict=True):
        assert torch.equal(before, after)
    assert not torch.equal(seen.moments[0], seen.moments[-1])


def normalisers(agent) -> dict[str, RunningNorm]:
    return {name: layer for name, layer in agent.named_modules() if isinstance(layer, RunningNorm)}


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: SAC((5,), 2), ["actor.policy", "critic.Q1", "critic.Q2", "critic_target.Q1", "critic_target.Q2"]),
        (lambda: DrQV2((5,), 2), ["actor.trunk", "critic.trunk", "critic_target.trunk"]),
        (lambda: DQN((5,), 3, dueling=True), ["encoder.mlp", "encoder_target.mlp"]),
        (lambda: DrQV2((9, 20, 20), 2, num_channels=4), []),
        (lambda: DQN((4, 10, 10), 3, encoder="minatar"), []),
    ],
)
def test_whatever_reads_states_first_reads_them_normalised(make, expected):
    """The states alone: of a critic's inputs the actions pass as they are."""
    agent = make()
    agent.build([SimBaBlocks(hidden_dim=4)])
    found = normalisers(agent)
    assert sorted(found) == [f"{path}.observations" for path in sorted(expected)]
    assert all(layer.size == 5 for layer in found.values())
    for path in expected:
        assert next(iter(agent.get_submodule(path).named_children()))[0] == "observations"
    plain = make()
    plain.build([SimBaBlocks(hidden_dim=4, normalize_observations=False)])
    assert normalisers(plain) == {}
    same = {n: p.shape for n, p in plain.named_parameters()}
    assert same == {n: p.shape for n, p in agent.named_parameters()}, "it has no weights"


def test_only_heads_that_are_built_are_normalised():
    agent = SAC((5,), 2)
    agent.build([SimBaBlocks(modules=["critic.Q1"], hidden_dim=4)])
    assert sorted(normalisers(agent)) == ["critic.Q1.observations", "critic_target.Q1.observations"]
    agent = DrQV2((5,), 2)
    agent.build([SimBaBlocks(modules=["critic.Q1"], hidden_dim=4)])
    assert sorted(normalisers(agent)) == ["critic.trunk.observations", "critic_target.trunk.observations"]
    agent = DrQV2((5,), 2)
    pair = [SimBaBlocks(modules=["critic.Q1"], hidden_dim=4), SimBaBlocks(modules=["critic.Q2"], hidden_dim=4)]
    with pytest.raises(UserError, match="SimBaBlocks cannot run .*: both normalise what critic.trunk observes"):
        agent.build(pair)


def test_images_are_not_normalised():
    with pytest.raises(UserError, match="normalize_observations=true, but this run observes the pixels: only states"):
        drqv2(SimBaBlocks(normalize_observations=True))


@pytest.mark.parametrize("make", [tiny_sac, tiny_agent, tiny_dqn])
def test_all_copies_have_the_statistics_of_the_run(make, tmp_path):
    """Online, target, and the halves of an injection; a reset and a perturbation keep them."""
    given = [
        SimBaBlocks(hidden_dim=4),
        PlasticityInjection(modules=["critic"], at_frames=[120]),
        *([Reset(modules=["actor"], at_frames=[100])] if make is not tiny_dqn else []),
        ShrinkAndPerturb(modules=["actor"] if make is not tiny_dqn else ["encoder"], at_frames=[140]),
    ]
    options = {"agent_options": {"encoder": "mlp", "num_channels": None}} if make is tiny_dqn else {}
    data = {"task": "tiny_discrete", **STATE} if make is tiny_dqn else STATE
    agent = fit_tiny(tmp_path, callbacks=given, make_agent=make, data_options=data, **options)
    found = list(normalisers(agent).values())
    assert len(found) >= 2
    for layer in found:
        assert float(layer.count) == pytest.approx(agent.env_steps + 1e-4)
        assert torch.equal(layer.mean, found[0].mean)
        assert torch.equal(layer.var, found[0].var)
    assert bool((found[0].var > 0).all())
    assert not torch.equal(found[0].mean, torch.zeros_like(found[0].mean))


def test_a_killed_run_goes_on_exactly_with_its_statistics(tmp_path):
    def given() -> list:
        return [SimBaBlocks(hidden_dim=4), Reset(at_frames=[100]), ReDo(tau=0.5, every_n_updates=4, batch_size=8)]

    run = {"make_agent": tiny_sac, "data_options": {**STATE, "eval_every_n_frames": 60}, "max_frames": 200}
    straight = fit_tiny(tmp_path / "straight", callbacks=given(), **run)
    with pytest.raises(Killed):
        fit_tiny(tmp_path / "resumed", callbacks=[*given(), DieAt(150)], **run)
    resumed = fit_tiny(tmp_path / "resumed", callbacks=given(), ckpt_path="last", **run)
    assert differences(run_state(straight), run_state(resumed)) == []
    ours, theirs = normalisers(straight), normalisers(resumed)
    assert ours.keys() == theirs.keys()
    for name, layer in ours.items():
        assert all(torch.equal(a, b) for a, b in zip(layer.buffers(), theirs[name].buffers(), strict=True))


def test_a_copy_of_an_agent_has_statistics_of_its_own():
    agent = SAC((5,), 2)
    agent.build([SimBaBlocks(hidden_dim=4)])
    other = copy.deepcopy(agent)
    other.actor.policy.observations.mean.add_(1.0)
    assert not agent.actor.policy.observations.mean.any()


def test_first_weights_are_those_of_the_code():
    """Hidden layers of blocks: He; the first and the last one: orthogonal, the agent's own; biases zero."""
    agent = SAC((5,), 2)
    agent.build([SimBaBlocks()])
    embedding, output = agent.critic.Q1.get_submodule("0"), agent.critic.Q1.get_submodule("4")
    torch.testing.assert_close(embedding.weight.T @ embedding.weight, torch.eye(7), atol=1e-5, rtol=0)
    torch.testing.assert_close(output.weight @ output.weight.T, torch.eye(1), atol=1e-5, rtol=0)
    for block in (layer for layer in agent.critic.Q1 if isinstance(layer, Residual)):
        assert float(block[1].weight.detach().std()) == pytest.approx(math.sqrt(2 / 512), rel=0.01)
        assert float(block[3].weight.detach().std()) == pytest.approx(math.sqrt(2 / 2048), rel=0.01)
    assert not any(bool(layer.bias.any()) for layer in agent.critic.modules() if isinstance(layer, nn.Linear))
