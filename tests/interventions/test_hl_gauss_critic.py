"""HLGaussCritic: histograms by hand and by scipy, whole updates again and slowly, what others see of the values."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from agent_kinds import KINDS
from built import assert_learns, assert_target_is_a_twin, changed, drqv2, shapes, some_batch
from helpers import TINY_DISCRETE, fit_tiny, tiny_dqn, tiny_sac
from scipy.stats import norm
from tensordict import TensorDict
from torch import Tensor

import callbacks
from callbacks import HLGaussCritic, PlasticityInjection, Reset, TargetStatistics, WiderNetwork
from plasticity_rl import DQN, SAC, UserError
from plasticity_rl.agents.histogram import ValueHistogram
from plasticity_rl.losses import hl_gauss

EDGES = torch.linspace(-2.0, 2.0, 5)
"""Four bins of width 1."""


# ------------------------------------------------------------------------------------------------------- the histogram


def test_a_value_between_two_bins_by_hand():
    """sigma 1/sqrt(2), y = 0: F is erf itself; erf(1) = 0.8427008, erf(2) = 0.9953223."""
    inner, outer = 0.8427008 / (2 * 0.9953223), (0.9953223 - 0.8427008) / (2 * 0.9953223)
    found = hl_gauss(torch.zeros(1, 1), EDGES, math.sqrt(0.5))
    torch.testing.assert_close(found, torch.tensor([[outer, inner, inner, outer]]))


def test_a_value_at_the_end_keeps_the_half_inside_by_hand():
    """y = v_max = 2, sigma 1/sqrt(2): masses erf(1), erf(2) - erf(1), ... from the right; erf(3) = 0.9999779."""
    masses = [1.0 - 0.9999779, 0.9999779 - 0.9953223, 0.9953223 - 0.8427008, 0.8427008]
    found = hl_gauss(torch.tensor([[2.0], [7.0]]), EDGES, math.sqrt(0.5))
    torch.testing.assert_close(found[0], torch.tensor(masses), atol=1e-6, rtol=0)
    assert torch.equal(found[0], found[1]), "what lies outside counts as the end"


def slow_histogram(target: float, v_min: float, v_max: float, bins: int, sigma: float) -> list[float]:
    """Integrate the Gaussian over each bin, in float64."""
    y, width = min(max(target, v_min), v_max), (v_max - v_min) / bins
    masses = [
        norm.cdf(v_min + (i + 1) * width, loc=y, scale=sigma) - norm.cdf(v_min + i * width, loc=y, scale=sigma)
        for i in range(bins)
    ]
    return [mass / sum(masses) for mass in masses]


@pytest.mark.parametrize("ratio", [0.1, 0.75, 3.0])
def test_histograms_are_those_of_scipy(ratio):
    targets = [-12.0, -10.0, -9.99, -3.3, 0.0, 0.1, 4.987, 10.0, 50.0]
    edges = torch.linspace(-10.0, 10.0, 41)
    found = hl_gauss(torch.tensor(targets)[:, None], edges, ratio * 0.5)
    expected = torch.tensor([slow_histogram(y, -10.0, 10.0, 40, ratio * 0.5) for y in targets]).float()
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(found.sum(1), torch.ones(len(targets)))


def test_the_mean_of_a_histogram_is_the_value_that_it_was_made_of():
    """The error of a sum over bins is below exp(-2 pi^2 0.75^2) / pi = 5e-6 of a width, away from the ends."""
    histogram = ValueHistogram(-100.0, 100.0, 101, 0.75 * 200 / 101)
    histogram.double()
    target = torch.linspace(-90.0, 90.0, 997, dtype=torch.float64)[:, None]
    logits = hl_gauss(target, histogram.edges, histogram.sigma).log()
    torch.testing.assert_close(histogram.values(logits), target, atol=2e-5, rtol=0)


def test_the_mean_of_a_cut_off_gaussian_lies_inside():
    """sqrt(2 / pi) = 0.8 of its standard deviation: what the docstring says of values at the ends."""
    edges = torch.linspace(0.0, 10.0, 1001)
    centres = (edges[:-1] + edges[1:]) / 2
    mean = (hl_gauss(torch.zeros(1, 1), edges, 1.0) * centres).sum()
    assert float(mean) == pytest.approx(math.sqrt(2 / math.pi), abs=1e-3)


def test_the_gradient_is_the_difference_of_distributions():
    histogram = ValueHistogram(-2.0, 2.0, 6, 0.5)
    logits = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = torch.linspace(-3, 3, 5, dtype=torch.float64)[:, None]
    histogram.double()
    assert torch.autograd.gradcheck(lambda x: histogram.cross_entropies(x, target), logits)
    histogram.cross_entropies(logits, target).sum().backward()
    expected = logits.detach().softmax(1) - hl_gauss(target, histogram.edges, 0.5)
    torch.testing.assert_close(logits.grad, expected)


def test_targets_outside_are_counted():
    target = torch.tensor([[-2.1], [-2.0], [0.0], [2.0], [2.5], [9.0]])
    assert float(ValueHistogram(-2.0, 2.0, 4, 1.0).fraction_outside(target)) == 0.5


# ------------------------------------------------------------------------------------------------- whole updates, again


def slow_values(logits: Tensor, v_min: float, v_max: float) -> Tensor:
    bins, total = logits.shape[-1], 0.0
    probabilities = logits.exp() / logits.exp().sum(-1, keepdim=True)
    for i in range(bins):
        total = total + probabilities[..., i] * (v_min + (i + 0.5) * (v_max - v_min) / bins)
    return total[..., None]


def slow_loss(logits: Tensor, target: Tensor, v_min: float, v_max: float, ratio: float = 0.75) -> Tensor:
    """Cross entropy of one head, sample by sample, with the histograms of scipy."""
    bins, losses = logits.shape[-1], []
    for row, y in zip(logits, target.flatten().tolist(), strict=True):
        wanted = torch.tensor(slow_histogram(y, v_min, v_max, bins, ratio * (v_max - v_min) / bins))
        losses.append(-(wanted * (row - row.exp().sum().log())).sum())
    return sum(losses) / len(losses)


def assert_updated_as(agent, loss: Tensor, modules: list[str], before: dict[str, Tensor], lr: float) -> None:
    """The gradients of a slow loss are those that the first step of Adam was made of: lr * g / (|g| + eps)."""
    named = {n: p for n, p in before.items() if n.partition(".")[0] in modules}
    gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    for (name, old), gradient in zip(named.items(), gradients, strict=True):
        new = agent.get_parameter(name).detach()
        eps = agent.optimizer_by_name(name.partition(".")[0]).param_groups[0]["eps"]
        expected = old.detach() - lr * gradient / (gradient.abs() + eps)
        sure = gradient.abs() > 1e-6  # of smaller ones rounding decides the sign
        torch.testing.assert_close(new[sure], expected[sure], atol=lr * 2e-2, rtol=0, msg=name)
        assert bool(sure.any())


def test_an_update_of_drqv2_again_and_slowly():
    agent = drqv2(HLGaussCritic(v_min=-3.0, v_max=3.0, bins=12), lr=1e-3, augment=False)
    slow, batch = copy.deepcopy(agent), some_batch(agent)
    metrics = agent.update(batch)
    features, following = slow.encoder(batch["pixels"]), slow.encoder(batch["next", "pixels"])
    noise = slow.stddev * torch.randn((8, 2), generator=slow.rng.get_own("update_noise", torch.device("cpu")))
    action = (slow.actor(following) + noise.clamp(-0.3, 0.3)).clamp(-1 + 1e-6, 1 - 1e-6)
    values = [slow_values(head, -3.0, 3.0) for head in slow.critic_target(following, action)]
    target = (batch["reward"] + batch["discount"] * torch.minimum(*values)).detach()
    heads = slow.critic(features, batch["action"])
    loss = sum(slow_loss(head, target, -3.0, 3.0) for head in heads)
    assert float(metrics["loss/critic"]) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert float(metrics["q/target"]) == pytest.approx(float(target.mean()), rel=1e-5)
    assert float(metrics["q/q1"]) == pytest.approx(float(slow_values(heads[0], -3.0, 3.0).mean().detach()), abs=1e-5)
    before = dict(slow.named_parameters())
    assert_updated_as(agent, loss, ["encoder", "critic"], before, 1e-3)


def test_an_update_of_sac_again_and_slowly_with_the_entropy_in_the_target():
    torch.manual_seed(3)
    agent = SAC((5,), 2, hidden_dim=8, lr=1e-3)
    agent.build([HLGaussCritic(v_min=-3.0, v_max=3.0, bins=12)])
    draw = lambda *shape: torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))  # noqa: E731
    batch = TensorDict(
        {
            "state": draw(6, 5),
            "action": draw(6, 2).tanh(),
            "reward": draw(6, 1),
            "discount": torch.full((6, 1), 0.9),
            "next": {"state": draw(6, 5) + 1.0},
        },
        batch_size=[6],
    )
    slow = copy.deepcopy(agent)
    metrics = agent.update(batch)
    mean, log_std = slow.actor(batch["next", "state"])
    noise = torch.randn((6, 2), generator=slow.rng.get_own("update_noise", torch.device("cpu")))
    u = mean + log_std.exp() * noise
    log_prob = torch.distributions.Normal(mean, log_std.exp()).log_prob(u).sum(1) - (1 - u.tanh() ** 2).log().sum(1)
    values = [slow_values(head, -3.0, 3.0) for head in slow.critic_target(batch["next", "state"], u.tanh())]
    alpha = slow.temperature.log_alpha.exp()
    target = batch["reward"] + 0.9 * (torch.minimum(*values) - alpha * log_prob[:, None])
    target = target.detach()
    loss = sum(slow_loss(head, target, -3.0, 3.0) for head in slow.critic(batch["state"], batch["action"]))
    assert float(metrics["loss/critic"]) == pytest.approx(float(loss.detach()), rel=1e-4)
    assert float(metrics["q/clipped"]) == float(((target < -3) | (target > 3)).float().mean())
    assert_updated_as(agent, loss, ["critic"], dict(slow.named_parameters()), 1e-3)


@pytest.mark.parametrize("dueling", [False, True])
def test_an_update_of_dqn_again_and_slowly(dueling):
    torch.manual_seed(3)
    agent = DQN((4,), 3, hidden_dim=8, lr=1e-3, dueling=dueling)
    agent.build([HLGaussCritic(v_min=-3.0, v_max=3.0, bins=12)])
    draw = lambda *shape: torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))  # noqa: E731
    batch = TensorDict(
        {
            "state": draw(6, 4),
            "action": torch.tensor([0, 1, 2, 0, 1, 2])[:, None],
            "reward": 2 * draw(6, 1),
            "discount": torch.full((6, 1), 0.9),
            "next": {"state": draw(6, 4) + 1.0},
        },
        batch_size=[6],
    )
    slow = copy.deepcopy(agent)
    metrics = agent.update(batch)
    following = slow.critic(slow.encoder(batch["next", "state"]))
    best = slow_values(following, -3.0, 3.0).squeeze(-1).argmax(1)
    theirs = slow_values(slow.critic_target(slow.encoder_target(batch["next", "state"])), -3.0, 3.0).squeeze(-1)
    target = (batch["reward"] + 0.9 * theirs[torch.arange(6), best][:, None]).detach()
    logits = slow.critic(slow.encoder(batch["state"]))[torch.arange(6), batch["action"].squeeze(1)]
    loss = slow_loss(logits, target, -3.0, 3.0)
    assert float(metrics["loss/critic"]) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert float(metrics["q/taken"]) == pytest.approx(float(slow_values(logits, -3.0, 3.0).mean().detach()), abs=1e-5)
    assert_updated_as(agent, loss, ["encoder", "critic"], dict(slow.named_parameters()), 1e-3)


# ----------------------------------------------------------------------------------------------- beside everything else


def test_only_the_output_layers_change_and_the_target_is_a_twin():
    agent, plain = drqv2(HLGaussCritic(v_min=-3.0, v_max=3.0, bins=12)), drqv2()
    outputs = {
        f"{net}.{q}.4.{kind}"
        for net in ("critic", "critic_target")
        for q in ("Q1", "Q2")
        for kind in ("weight", "bias")
    }
    assert changed(agent, plain) == outputs
    assert shapes(agent)["critic.Q1.4.weight"] == (12, 6)
    assert_target_is_a_twin(agent)
    assert_learns(agent)


def test_everyone_sees_values_and_not_logits():
    agent = drqv2(HLGaussCritic(v_min=-3.0, v_max=3.0, bins=12))
    batch, generator = some_batch(agent), torch.Generator().manual_seed(0)
    values = agent.forward_all(batch)["critic"]
    assert values.shape == (8, 2)
    assert float(values.abs().max()) < 3.0
    assert agent.td_targets(batch, generator).shape == (8, 1)
    entropy = math.log(12)  # of fresh logits, nearly equal ones
    assert float(agent.loss_on("critic", batch, generator)) == pytest.approx(2 * entropy, rel=0.3)


def test_a_critic_learns_the_value_of_a_constant_reward():
    """Discount 0: the value of every action is the reward, 1.3, between two centres."""
    agent = drqv2(HLGaussCritic(v_min=-4.0, v_max=4.0, bins=16), lr=3e-3, hidden_dim=32)
    batch = some_batch(agent, size=32)
    batch["reward"], batch["discount"] = torch.full((32, 1), 1.3), torch.zeros(32, 1)
    for _ in range(150):
        agent.update(batch)
    assert float((agent.forward_all(batch)["critic"] - 1.3).abs().mean()) < 0.1


def test_the_order_beside_a_wider_network_does_not_matter():
    wide, gauss = lambda: WiderNetwork(modules=["critic"]), lambda: HLGaussCritic(v_min=-1, v_max=1, bins=7)
    one, two = drqv2(wide(), gauss()), drqv2(gauss(), wide())
    assert shapes(one)["critic.Q2.4.weight"] == (7, 12)
    assert changed(one, two) == set()


def test_a_reset_starts_again_from_the_middle_of_the_range(tmp_path):
    class Look(Reset):
        def act(self, agent) -> str:
            text = super().act(agent)
            self.seen = agent.forward_all(agent.probe_batch(8))["critic"].detach()
            return text

    look = Look(modules=["critic"], at_frames=[150])
    gauss = HLGaussCritic(v_min=5.0, v_max=15.0, bins=21)
    agent = fit_tiny(tmp_path, callbacks=[gauss, look, TargetStatistics(every_n_updates=5, batch_size=8)])
    assert float((look.seen - 10.0).abs().max()) < 3.0
    assert "target/td_error" in agent.latest
    assert 0.0 <= agent.latest["q/clipped"] <= 1.0


def test_an_injection_leaves_the_values_as_they_are(tmp_path):
    class Look(PlasticityInjection):
        def act(self, agent) -> str:
            batch = agent.probe_batch(8)
            before = agent.forward_all(batch)["critic"]
            text = super().act(agent)
            self.jump = float((agent.forward_all(batch)["critic"] - before).abs().max().detach())
            return text

    look = Look(modules=["critic"], at_frames=[150])
    fit_tiny(tmp_path, callbacks=[HLGaussCritic(v_min=-10.0, v_max=10.0, bins=21), look])
    assert look.jump < 1e-5


@pytest.mark.parametrize("make", [tiny_sac, tiny_dqn], ids=["sac", "dqn"])
def test_it_trains_the_other_agents(make, tmp_path):
    data = {"observation": "state"} if make is tiny_sac else TINY_DISCRETE
    gauss = HLGaussCritic(v_min=-10.0, v_max=10.0, bins=21)
    agent = fit_tiny(tmp_path, callbacks=[gauss], make_agent=make, data_options=data, max_frames=120)
    assert agent.histogram is not None
    assert math.isfinite(agent.latest["loss/critic"])
    assert agent.forward_all(agent.probe_batch(8))["critic"].abs().max() < 10


def test_priorities_are_errors_of_the_means(tmp_path):
    """Not the cross entropy, which is at least the entropy of a target: 1.1 nats at 0.75 of a bin."""
    kind = KINDS["dqn"]
    gauss = HLGaussCritic(v_min=-10.0, v_max=10.0, bins=21)
    agent = kind.fit(tmp_path, callbacks=[gauss], max_frames=120, data_options={"prioritized": True})
    leaves = torch.from_numpy(agent.data.replay._windows.tree.leaves)
    batch, generator = agent.data.replay.peek(64, torch.Generator().manual_seed(0)), torch.Generator().manual_seed(0)
    error = agent.td_targets(batch, generator).abs() + 10.0
    assert bool((leaves <= max(1.0, float(error.max()) ** 0.5)).all())
    assert 0 < float(leaves[leaves > 0].min()) < 1.0


# -------------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"v_min": 1.0, "v_max": 1.0}, r"HLGaussCritic.v_min=1.0 must be less than v_max=1.0"),
        ({"v_min": float("nan"), "v_max": 1.0}, r"HLGaussCritic.v_min=nan must be"),
        ({"v_min": 0.0, "v_max": float("inf")}, r"HLGaussCritic.v_max=inf must be"),
        ({"v_min": 0.0, "v_max": 1.0, "bins": 1}, r"HLGaussCritic.bins=1 must be a whole number >= 2"),
        ({"v_min": 0.0, "v_max": 1.0, "bins": 10**6}, r"HLGaussCritic.bins=1000000 must be at most 10000"),
        ({"v_min": 0.0, "v_max": 1.0, "sigma_ratio": 0.0}, r"HLGaussCritic.sigma_ratio=0.0 must be > 0"),
    ],
)
def test_bad_numbers_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        HLGaussCritic(**arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_atoms": 11}, "num_atoms=11: the values are distributions"),
        ({"loss": "mse"}, "loss=mse: HLGaussCritic has"),
    ],
)
def test_dqn_with_a_loss_of_its_own_is_refused(options, message):
    agent = DQN((4,), 3, hidden_dim=8, **options)
    with pytest.raises(UserError, match=message):
        agent.build([HLGaussCritic(v_min=-3.0, v_max=3.0)])


def test_two_of_them_are_refused():
    two = [HLGaussCritic(v_min=-3.0, v_max=3.0, bins=bins) for bins in (5, 7)]
    with pytest.raises(UserError, match="both classify the values"):
        drqv2(*two)


def test_it_is_exported():
    assert callbacks.HLGaussCritic is HLGaussCritic
    assert HLGaussCritic(v_min=0, v_max=1).name == "hl_gauss_critic"
