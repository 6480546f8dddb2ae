"""Numbers worked out by hand for pairs of callbacks that once spoiled each other's values."""

from __future__ import annotations

import math

import pytest
import torch
from bare import BareAgent, Jumps
from built import some_batch
from helpers import fit_tiny
from torch import nn

from callbacks import (
    AdaptiveReplayRatio,
    ChurnReduction,
    ContinualBackprop,
    CReLU,
    DeepFourierFeatures,
    DormantRatioPerturbation,
    EffectiveRank,
    FractionActiveUnits,
    HareAndTortoise,
    InFeR,
    L2Init,
    NormalizeAndProject,
    ParsevalRegularization,
    PlasticityInjection,
    RandomPruning,
    ReDo,
    Reset,
    SelfNormalizedReset,
    ShrinkAndPerturb,
    SpectralNorm,
    SpectralRegularization,
    WeightDecay,
    WeightNorm,
)
from plasticity_rl import UserError
from plasticity_rl.callback import Intervention
from plasticity_rl.measures import effective_rank, spectrum
from plasticity_rl.nn.weight_transforms import weight_in_use

# ---- an injected head


def active(network: nn.Module, x: torch.Tensor) -> list[float]:
    """Share of the hidden outputs above zero, layer by layer."""
    shares = []
    for layer in network:
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            shares.append(float((x > 0).double().mean()))
    return shares


@torch.no_grad()
def silence(agent: BareAgent) -> None:
    """Let a share of the units of the critic's heads die, so that old and fresh heads differ."""
    for head in (agent.critic.Q1, agent.critic.Q2):
        for index in (0, 2):
            head[index].bias[:8] = -100.0


def test_active_units_at_the_first_update_after_an_injection_are_those_of_before():
    injection, probe = PlasticityInjection(at_frames=[4]), FractionActiveUnits(every_n_updates=1)
    agent = BareAgent(injection, probe, lr=1e-30)
    silence(agent)
    agent.step()
    before = dict(agent.latest)
    agent.step()
    assert agent.critic.Q1.num_injections == 1
    assert before["fau/critic"] < 0.3
    for tag, value in before.items():
        assert agent.latest[tag] == value, tag

    batch = some_batch(agent)
    x = torch.cat([agent.critic.trunk(agent.encoder(batch["pixels"])), batch["action"]], -1)
    shares = [active(head.injected[0]["added"], x) for head in (agent.critic.Q1, agent.critic.Q2)]
    added = shares[0] + shares[1]  # of equal size
    assert agent.latest["fau/critic/added"] == pytest.approx(sum(added) / 4, abs=1e-6)
    assert agent.latest["fau/critic/added"] > 0.35
    assert agent.latest["fau/critic/Q1.injected.0.added.1"] == pytest.approx(shares[0][0], abs=1e-6)
    assert not [tag for tag in agent.latest if "removed" in tag]


def test_effective_rank_is_that_of_the_trained_head():
    agent = BareAgent(PlasticityInjection(at_frames=[4]), lr=3e-3)
    silence(agent)
    for seed in range(6):
        agent.step(seed)
    agent.use([EffectiveRank(every_n_updates=1, batch_size=64)])
    for optimizer in agent._own_optimizers:
        for group in optimizer.param_groups:
            group["lr"] = 0.0
    agent.step()
    batch = agent.probe_batch(64)
    with torch.no_grad():
        x = torch.cat([agent.critic.trunk(agent.encoder(batch["pixels"])), batch["action"]], -1)
        pair = agent.critic.Q1.injected[0]
        ranks = {name: effective_rank(spectrum(pair[name][:4](x))) for name in ("added", "removed")}
        ranks["old"] = effective_rank(spectrum(nn.Sequential(*[agent.critic.Q1[i] for i in range(4)])(x)))
    assert agent.latest["rank/effective_rank/critic.Q1"] == pytest.approx(ranks["added"], rel=1e-4)
    assert all(abs(ranks["added"] - ranks[name]) > 1e-3 for name in ("removed", "old"))


def test_infer_reaches_the_trainable_head_and_its_targets_are_that_heads_first_features():
    regularizer = InFeR(coefficient=1.0, scale=3.0, num_heads=2)
    agent = BareAgent(PlasticityInjection(at_frames=[4]), regularizer)
    initial = {name: p.detach().clone() for name, p in agent.named_parameters()}
    for seed in range(4):
        agent.step(seed)
    (term,) = agent.terms().values()
    weights = {n: p for n, p in agent.named_parameters() if n.startswith("critic.Q") and p.requires_grad}
    gradients = dict(zip(weights, torch.autograd.grad(term, list(weights.values()), allow_unused=True), strict=True))
    reached = {name for name, gradient in gradients.items() if gradient is not None and gradient.any()}
    assert reached == {
        f"critic.{q}.injected.0.added.{i}.{p}" for q in ("Q1", "Q2") for i in (0, 2) for p in ("weight", "bias")
    }

    batch, expected = some_batch(agent, seed=9), 0.0
    first = BareAgent(PlasticityInjection(at_frames=[4]), InFeR(coefficient=1.0, scale=3.0, num_heads=2))
    first.load_state_dict({**agent.state_dict(), **initial})
    with torch.no_grad():
        for q in ("Q1", "Q2"):
            outputs = []
            for network in (agent, first):
                x = torch.cat([network.critic.trunk(network.encoder(batch["pixels"])), batch["action"]], -1)
                features = network.critic.get_submodule(q).injected[0]["added"][:4](x)
                outputs.append(network.extras[regularizer.extra].head(f"critic.{q}")(features))
            expected += float((outputs[0] - 3.0 * outputs[1]).square().sum(1).mean())
    assert float(term.detach()) == pytest.approx(expected, rel=1e-4)


def test_a_trigger_watches_what_learns_and_finds_nothing_settled_when_that_changes():
    trigger = AdaptiveReplayRatio(every_n_episodes=1, threshold=1.0, average_over="window")
    agent = BareAgent(PlasticityInjection(at_frames=[4]), trigger, lr=1e-30)
    silence(agent)
    agent.step()
    assert trigger.initial < 0.3
    agent.step()
    assert float(trigger._sum) / trigger._count > 0.35, "of the added heads alone"
    agent.dispatch("on_episode_end", 0.0, 1)
    assert not trigger.switched, "the check before was of other units"
    assert agent.latest["intervention/adaptive_replay_ratio/fau"] > 0.35
    agent.step()
    agent.dispatch("on_episode_end", 0.0, 1)
    assert trigger.switched


def test_the_dormant_ratio_is_that_of_what_learns():
    one = DormantRatioPerturbation(modules=["critic"], observed="actor", at_frames=[10**9], tau=0.3)
    agent = BareAgent(PlasticityInjection(modules=["actor"], at_frames=[4]), one)
    for seed in range(3):
        agent.step(seed)
    ratio = one.dormant_ratio(agent)
    policy = agent.actor.policy
    with torch.no_grad():
        for network in (policy.injected[0]["removed"], nn.Sequential(*[policy[i] for i in range(5)])):
            for layer in network:
                if isinstance(layer, nn.Linear):
                    layer.weight[1:] = 0.0
                    layer.bias[1:] = 0.0
    assert one.dormant_ratio(agent) == ratio


# ---- weights that jump


def test_a_critic_that_jumps_costs_no_churn():
    """All weights jump at once: outputs are those of the new network in both, up to what one update learned."""
    losses = {}
    for churn in ([], [ChurnReduction(coefficient=1.0)]):
        writers = [ShrinkAndPerturb(modules=["encoder", "critic"], shrink=0.2, at_frames=[8]), *churn]
        agent = BareAgent(*writers)
        with torch.no_grad():
            agent.critic.Q1[4].weight.mul_(40.0)
            agent.critic.Q2[4].weight.mul_(40.0)
        for seed in range(2):
            agent.step(seed)
        metrics = agent.step(2)
        losses[len(churn)] = float(metrics["loss/critic"])
        term = float(metrics["intervention/churn_reduction/critic/loss"]) if churn else 0.0
    assert term < 0.05 * losses[0]


def test_the_tortoise_does_not_undo_a_recycled_unit():
    """Three units of the actor are dead. Without learning, what was recycled is what the hare gets back."""
    redo = ReDo(modules=["actor"], tau=0.0, every_n_updates=6, batch_size=16)
    hare = HareAndTortoise(modules=["actor"], decay=0.9, every_n_updates=7)
    agent = BareAgent(redo, hare, lr=1e-30)
    with torch.no_grad():
        agent.actor.policy[0].bias[:3] = -100.0
        before = agent.actor.policy[2].weight[:, :3].norm()
    for seed in range(7):
        agent.step(seed)
    assert agent.last_events == {"redo": 6}
    recycled = agent.actor.policy[0].weight[:3].detach().clone()
    agent.step(7)
    assert agent.last_events == {"redo": 6, "hare_and_tortoise": 7}
    assert float(before.detach()) > 0.5
    assert float(agent.actor.policy[2].weight[:, :3].detach().norm()) < 1e-6, "the outgoing weights came back"
    torch.testing.assert_close(agent.actor.policy[0].weight[:3].detach(), recycled)


def test_the_coefficient_follows_the_loss_of_the_agent_alone():
    """The average takes the last value with decay 0. A term a thousand times larger beside it changes nothing."""
    averages = []
    for coefficient in (0.0, 100.0):
        churn = ChurnReduction(decay=0.0, target_ratio=0.05)
        agent = BareAgent(churn, WeightDecay(coefficient=coefficient, modules=["critic"]), lr=1e-30)
        for seed in range(3):
            metrics = agent.step(seed)
        averages.append(float(churn._averages[0]))
        batch = some_batch(agent, seed=2)
        generator = torch.Generator().manual_seed(0)
        td = float(agent.loss_on("critic", batch, generator).detach())
    assert float(metrics["loss/critic"]) > 50 * averages[1]
    assert averages[0] == pytest.approx(averages[1], rel=1e-6)
    assert averages[1] == pytest.approx(td, rel=0.5), "the targets' noise is another one"


def test_an_added_origin_is_fresh_only_where_weights_are():
    """L2Init's origin follows a reset, and not a soft one."""
    for writer, follows in (
        (Reset(modules=["critic"], at_frames=[4]), True),
        (ShrinkAndPerturb(modules=["critic"], at_frames=[4]), False),
    ):
        regularizer = L2Init(coefficient=1.0, modules=["critic"])
        agent = BareAgent(regularizer, writer, Jumps())
        agent.step()
        agent.env_frames += 4
        agent.dispatch("on_update_start")
        (term,) = agent.terms().values()
        assert (float(term.detach()) == 0.0) == follows


def watches(agent: BareAgent, callback: Intervention, updates: int = 12) -> int:
    """Return how many times the agent copied weights to find out what ``callback`` does to them."""
    started, act = [], callback.on_update_start

    def look(agent: BareAgent) -> None:
        started.append(agent.watch is not None)
        act(agent)

    callback.on_update_start = look
    for seed in range(updates):
        agent.step(seed)
    return sum(started)


@pytest.mark.parametrize("cls", [ContinualBackprop, SelfNormalizedReset, HareAndTortoise])
def test_nobody_copies_weights_for_an_intervention_that_alone_listens(cls):
    """Its own units, records and average are right without; beside another listener it ends as it does alone."""
    arguments = cls.example_arguments
    alone, beside = cls(**arguments), cls(**arguments)
    agents = [BareAgent(alone), BareAgent(beside, Jumps())]
    assert watches(agents[0], alone) == 0
    assert watches(agents[1], beside) > 0
    for one, other in zip(agents[0].parameters(), agents[1].parameters(), strict=True):
        assert torch.equal(one, other)
    torch.testing.assert_close(alone.state_dict(), beside.state_dict(), rtol=0, atol=0, equal_nan=True)


# ---- pruned weights


def pruned_layer(*callbacks) -> tuple[BareAgent, nn.Module, torch.Tensor]:
    agent = BareAgent(RandomPruning(sparsity=0.6, distribution="uniform"), *callbacks)
    layer = agent.critic.Q1.get_submodule("2")
    (transform,) = layer.transforms
    return agent, layer, transform.mask


@pytest.mark.parametrize("cls", [ParsevalRegularization, SpectralRegularization, WeightDecay, L2Init])
def test_a_pruned_weight_gets_no_gradient_from_a_penalty(cls):
    agent, layer, mask = pruned_layer(cls(coefficient=1.0, modules=["critic.Q1"]))
    with torch.no_grad():
        layer.weight[~mask] = 2.0
        layer.weight[mask] += 0.1
    (term,) = agent.terms().values()
    (gradient,) = torch.autograd.grad(term, layer.weight)
    assert not gradient[~mask].any()
    assert gradient[mask].any()


def test_after_a_reset_what_is_measured_is_what_is_in_use():
    agent, layer, mask = pruned_layer(Reset(modules=["critic"], at_frames=[0]), WeightNorm(every_n_updates=1))
    agent.step()
    assert not layer.weight[~mask].any(), "a pruned weight came back"
    used = float((layer.weight.detach() * mask).norm())
    assert float(weight_in_use(layer).detach().norm()) == pytest.approx(used, rel=1e-6)
    norm = math.hypot(used, float(layer.bias.detach().norm()))
    assert agent.latest["weight_norm/critic/Q1.2"] == pytest.approx(norm, rel=1e-6)
    with torch.no_grad():
        layer.weight[~mask] = 5.0
    agent.use([WeightNorm(every_n_updates=1)])
    agent.step()
    norm = math.hypot(float((layer.weight.detach() * mask).norm()), float(layer.bias.detach().norm()))
    assert agent.latest["weight_norm/critic/Q1.2"] == pytest.approx(norm, rel=1e-6)


def test_a_projection_keeps_the_norm_that_is_in_use():
    callback = NormalizeAndProject(modules=["critic"])
    agent, layer, mask = pruned_layer(callback)
    first = float((layer.weight.detach() * mask).norm())
    with torch.no_grad():
        layer.weight.mul_(3.0)
        layer.weight[~mask] = 7.0
    callback.on_update_start(agent)
    assert float((layer.weight.detach() * mask).norm()) == pytest.approx(first, rel=1e-6)


# ---- quantities that an architecture pins


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("acting", "activations", "message"),
    [
        (
            lambda: AdaptiveReplayRatio(),
            lambda: CReLU(modules=["critic"]),
            "AdaptiveReplayRatio cannot run beside CReLU: it acts on the fraction of active units of critic.Q1.1, but "
            r"there one of ReLU\(x\) and ReLU\(-x\) is above zero, so that it is one half at any time; let it watch",
        ),
        (
            lambda: ReDo(modules=["actor"]),
            lambda: DeepFourierFeatures(modules=["actor"]),
            "ReDo cannot run beside DeepFourierFeatures: it acts on the dormancy of actor.policy.1",
        ),
    ],
)
def test_a_trigger_on_what_an_architecture_pins_is_refused_by_name(acting, activations, message, order, tmp_path):
    with pytest.raises(UserError, match=message):
        fit_tiny(tmp_path, callbacks=[acting(), activations()][::order])


def test_a_trigger_on_another_module_is_not_refused():
    agent = BareAgent(AdaptiveReplayRatio(module="actor"), CReLU(modules=["critic"]))
    agent.step()


def test_a_trigger_on_activations_that_the_agent_has_from_the_start_is_refused():
    from plasticity_rl.nn.activations import CReLU as Activation

    agent = BareAgent()
    agent.critic.Q1[1], agent.critic.Q1[2] = Activation(), nn.Linear(24, 12)
    with pytest.raises(UserError, match=r"AdaptiveReplayRatio: it acts on the fraction of active units of critic.Q1.1"):
        agent.use([AdaptiveReplayRatio()])


# ---- norms


def test_a_projection_of_a_spectrally_normalised_layer_is_refused_by_name():
    message = "both normalise the weight of actor.trunk.0"
    for given in ([SpectralNorm(), NormalizeAndProject()], [NormalizeAndProject(), SpectralNorm()]):
        with pytest.raises(UserError, match=message):
            BareAgent(*given)
    BareAgent(SpectralNorm(modules=["actor"]), NormalizeAndProject(modules=["critic"]))


def test_a_projection_scales_weight_and_bias_by_one_factor_and_changes_no_output():
    """In float64, with norms of no epsilon and biases as large as the weights: equal to rounding."""
    callback = NormalizeAndProject()
    agent = BareAgent(callback).double()
    generator = torch.Generator().manual_seed(0)
    first = {}
    with torch.no_grad():
        for module in agent.modules():
            if isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
                module.eps = 0.0
        for path, layer in callback._layers(agent).items():
            first[path] = float(layer.weight.norm())
            layer.weight.mul_(0.5 + 3 * torch.rand((), generator=generator).double())
            layer.bias.copy_(torch.randn(layer.bias.shape, generator=generator))
        callback._norms = {path: norm.double() for path, norm in callback._norms.items()}
        batch = some_batch(agent)
        batch["pixels"], batch["action"] = batch["pixels"].double(), batch["action"].double()
        layers = callback._layers(agent)
        ratios = {path: layer.bias.clone() / layer.weight.norm() for path, layer in layers.items()}
        before = agent.forward_all(batch)
        callback.on_update_start(agent)
        after = agent.forward_all(batch)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=1e-5, atol=1e-6)
    for path, layer in layers.items():
        assert float(layer.weight.detach().norm()) == pytest.approx(first[path], rel=1e-6)
        torch.testing.assert_close(layer.bias.detach() / layer.weight.detach().norm(), ratios[path])
    assert len(first) > 8
