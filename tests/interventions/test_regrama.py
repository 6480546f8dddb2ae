"""ReGraMa: who receives no gradient, by hand and by a slow loop. What recycling does is tested with ReDo."""

from __future__ import annotations

import copy

import pytest
import torch
from bare import seen_beside
from helpers import fit_with_maps
from torch.nn import functional as F

from callbacks import PruneDormant, ReGraMa
from plasticity_rl import UserError
from plasticity_rl.callback.dormant_unit_interventions import unit_activity
from plasticity_rl.callback.gradient_probes import probe_generator


@pytest.fixture
def agent(tmp_path):
    return fit_with_maps(tmp_path)


def inactive(agent, regrama: ReGraMa, layer: str) -> list[int]:
    found = {path: units for layers in regrama.find_inactive(agent).values() for path, (_, units) in layers.items()}
    return found[layer].nonzero().flatten().tolist()


def test_in_front_of_an_output_the_score_is_the_size_of_the_outgoing_weight(agent):
    """There dL/dh_i is the TD error times w_i, so the score is |w_i| over their mean, whatever the batch."""
    weights = torch.ones(16)
    weights[[4, 9]] = torch.tensor([0.1, -0.5])
    with torch.no_grad():
        agent.critic.Q1[4].weight.copy_(weights[None])
    mean = (14 + 0.1 + 0.5) / 16
    for tau, expected in ((0.099 / mean, []), (0.101 / mean, [4]), (0.499 / mean, [4]), (0.501 / mean, [4, 9])):
        assert inactive(agent, ReGraMa(modules=["critic"], tau=tau), "critic.Q1.3") == expected


def test_scores_of_an_encoder_against_a_slow_loop(agent):
    regrama = ReGraMa(modules=["encoder"], tau=0.97, batch_size=6)
    batch = agent.probe_batch(6)
    target = agent.td_targets(batch, probe_generator(agent, f"intervention/{regrama.state_key}"))
    for index in (1, 7):
        hidden = agent.encoder.convnet[: index + 1](batch["pixels"].float() / 255.0 - 0.5).detach().requires_grad_()
        features = agent.encoder.convnet[index + 1 :](hidden).flatten(1)
        loss = sum(F.mse_loss(q, target) for q in agent.critic(features, batch["action"]))
        (gradient,) = torch.autograd.grad(loss, hidden)
        means = []
        for channel in range(4):
            values = [abs(float(v)) for image in gradient for row in image[channel] for v in row]
            means.append(sum(values) / len(values))
        scores = [mean / (sum(means) / 4) for mean in means]
        expected = [channel for channel, score in enumerate(scores) if score <= 0.97]
        assert 0 < len(expected) < 4, "the threshold must divide the channels"
        assert inactive(agent, regrama, f"encoder.convnet.{index}") == expected


def test_a_silent_unit_that_is_read_is_kept_and_one_that_nobody_reads_is_not(agent):
    with torch.no_grad():
        agent.actor.policy[0].bias[3] = -1e4  # puts out zero, and would be listened to
        agent.actor.policy[4].weight[:, 5] = 0.0
    silent = {layer.name: value == 0 for layer, value in unit_activity(agent, "actor", 64)}
    assert silent["actor.policy.1"][3]
    regrama = ReGraMa(modules=["actor"], tau=0.0, batch_size=64)
    assert 3 not in inactive(agent, regrama, "actor.policy.1")
    assert inactive(agent, regrama, "actor.policy.3") == [5]


def test_recycling_what_nobody_reads_changes_no_output_and_is_drawn_like_the_layer(agent):
    with torch.no_grad():
        agent.critic.Q1[4].weight[:, 7] = 0.0
        agent.critic.Q1[2].bias[7] = 1.0
    regrama, batch = ReGraMa(modules=["critic.Q1"], tau=0.0), agent.probe_batch(32)
    assert inactive(agent, regrama, "critic.Q1.3") == [7]
    # A unit of the layer before may receive no gradient either: it is silent, or all that read it are.
    before = inactive(agent, regrama, "critic.Q1.1")
    with torch.no_grad():
        old = agent.critic(agent.encoder(batch["pixels"]), batch["action"])
    text = regrama.act(agent)
    with torch.no_grad():
        new = agent.critic(agent.encoder(batch["pixels"]), batch["action"])
    if not before:
        assert all(torch.equal(a, b) for a, b in zip(old, new, strict=True))
    assert agent.latest["intervention/regrama/recycled/critic.Q1"] == 1 + len(before)
    assert text.startswith(f"recycled {1 + len(before)} units of critic.Q1 at frame")
    generator = type(agent.rng)(agent.rng.seed).get(f"intervention/{regrama.state_key}")
    if before:
        agent.init_layer(copy.deepcopy(agent.critic.Q1[0]), generator)
    fresh = copy.deepcopy(agent.critic.Q1[2])
    agent.init_layer(fresh, generator)
    for critic in (agent.critic, agent.critic_target):
        kept = [unit for unit in range(16) if unit not in before]
        assert torch.equal(critic.Q1[2].weight[7, kept], fresh.weight[7, kept])
        assert critic.Q1[2].bias[7] == 0
        assert not critic.Q1[4].weight[:, 7].any()
    state = agent.optimizer_of(agent.critic.Q1[2].weight).state[agent.critic.Q1[2].weight]
    assert not state["exp_avg"][7].any()
    assert state["exp_avg"].any()


def test_recycled_units_learn(agent):
    with torch.no_grad():
        agent.critic.Q1[4].weight[:, 4:10] = 0.0
    ReGraMa(modules=["critic"], tau=0.0).act(agent)
    old, batch = agent.critic.Q1[2].weight.detach().clone(), agent.probe_batch(64)
    activity = {layer.name: value for layer, value in unit_activity(agent, "critic", 64)}["critic.Q1.3"]
    alive = [unit for unit in range(4, 10) if activity[unit] > 0]
    assert len(alive) >= 2, "a fresh unit may be silent by chance, as at the start of a run"
    for _ in range(4):
        agent.update(batch)
    for unit in alive:
        assert agent.critic.Q1[4].weight[0, unit] != 0
        assert not torch.equal(agent.critic.Q1[2].weight[unit], old[unit])


def test_a_layer_that_no_gradient_reaches_is_left_alone(agent):
    """Its last layer reads nothing: no unit of the layers before is to blame for that."""
    with torch.no_grad():
        agent.critic.Q1[4].weight.zero_()
    regrama = ReGraMa(modules=["critic.Q1"], tau=0.5)
    assert inactive(agent, regrama, "critic.Q1.1") == inactive(agent, regrama, "critic.Q1.3") == []


def test_gradients_that_are_not_finite_recycle_nothing(agent):
    regrama = ReGraMa(tau=0.9)
    assert any(units.any() for layers in regrama.find_inactive(agent).values() for _, units in layers.values())
    with torch.no_grad():
        agent.critic_target.Q1[4].bias.fill_(float("nan"))
    (of_critic,) = (layers for name, layers in regrama.find_inactive(agent).items() if name == "critic")
    assert of_critic
    assert not any(units.any() for _, units in of_critic.values())


def test_looking_draws_nothing_and_leaves_no_gradient(agent):
    generators = agent.rng.state_dict()
    gradients = {name: p.grad for name, p in agent.named_parameters()}
    ReGraMa(tau=0.0).find_inactive(agent)
    assert generators.keys() == agent.rng.state_dict().keys()
    assert all(p.grad is gradients[name] for name, p in agent.named_parameters())


@pytest.mark.parametrize("order", [1, -1])
def test_what_reads_the_training_batch_does_not_see_its_pass(order):
    """Its gradient comes from a batch of its own, at the start of an update that others have begun to watch."""
    assert seen_beside([ReGraMa(tau=0.0, every_n_updates=1)], order) == seen_beside([], order)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tau": 1.0}, r"ReGraMa.tau=1.0 must be in \[0, 1\)"),
        ({"batch_size": 0}, "ReGraMa.batch_size=0 must be a whole number >= 1"),
        ({"every_n_updates": 0}, "ReGraMa.every_n_updates: the period is 0"),
    ],
)
def test_bad_numbers_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        ReGraMa(**arguments)


def test_what_prunes_dormant_units_is_refused_beside_it(tmp_path):
    with pytest.raises(UserError, match="ReGraMa cannot run beside PruneDormant: a unit that one has pruned"):
        fit_with_maps(tmp_path, callbacks=[ReGraMa(), PruneDormant()])
